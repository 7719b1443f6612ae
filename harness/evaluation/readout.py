"""Next-token losses from activations at the hookpoint: the LM's layers behind it, then cross-entropy and KL to clean.

Of what does not depend on the SAE, `HeadReadout` keeps a vector of the model's width for each prediction in place of
the distribution over the vocabulary. For a head that is linear, z = W h + b, and clean probabilities p,

    KL(p || q) = log Z_q - log Z_p - (h_q - h_p) · m,    m = Σ_v p_v W_v,

so that KL and cross-entropy of a replacement need its log-normaliser log Z_q alone, and the vocabulary is gone through
once, in blocks that stay in cache, without a tensor of all logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..activations.language_model import LanguageModel
from ..errors import NonFiniteError
from ..interfaces.batch import SequenceBatch
from ..interfaces.evaluator import LanguageModelView, NextTokenLosses
from ..threads.products import product
from .predictions import cross_entropy_from_log_probs, kl_from_log_probs, predicting_positions

_BLOCK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Logits of a block of the vocabulary, in numbers: on a CPU 16 MiB, so that the block stays in cache."""
_LOGIT_ELEMENTS = 1 << 23
"""Largest tensor of all logits, in numbers (32 MiB): larger ones cost twice the time on a CPU, which maps and clears
fresh pages for each."""
_TRIED_TOKENS = 16
_TOLERANCE = 1e-4


class Predictions(NamedTuple):
    """The next-token predictions of one batch that are counted."""

    keep: Tensor
    """[b, s] bool."""
    targets: Tensor
    """[n] int64: the tokens predicted."""
    document: Tensor
    """[n] int64."""


def predictions_of(batch: SequenceBatch) -> Predictions:
    """The counted predictions of a batch; there may be none."""
    keep = predicting_positions(batch.mask)
    return Predictions(keep, batch.tokens.roll(-1, 1)[keep], batch.document[:, None].expand_as(keep)[keep])


class Readout(Protocol):
    """Losses of a batch, which is named by its number and given with its replacement."""

    def clean(self, index: int, batch: SequenceBatch) -> NextTokenLosses:
        """When nothing is replaced."""
        ...

    def losses(self, index: int, batch: SequenceBatch, activations: Tensor) -> NextTokenLosses:
        """When the hookpoint gives `activations` [b, s, d_in]."""
        ...


class LogitReadout:
    """For any LM: from all logits, a few sequences at a time. Clean log-probabilities are kept while there is room."""

    def __init__(
        self, lm: LanguageModelView, hookpoint: str, memo: Callable[[str, Callable[[], Tensor]], Tensor]
    ) -> None:
        self._lm, self._hookpoint, self._memo = lm, hookpoint, memo

    def clean(self, index: int, batch: SequenceBatch) -> NextTokenLosses:
        """When nothing is replaced."""
        parts = []
        for number, (part, found) in enumerate(self._parts(batch)):
            ce = cross_entropy_from_log_probs(self._clean(index, number, part, found), found.targets)
            parts.append(NextTokenLosses(document=found.document, ce=ce, kl=torch.zeros_like(ce)))
        return NextTokenLosses.cat(parts)

    def losses(self, index: int, batch: SequenceBatch, activations: Tensor) -> NextTokenLosses:
        """When the hookpoint gives `activations`."""
        parts, done = [], 0
        for number, (part, found) in enumerate(self._parts(batch)):
            given = activations[done : done + len(part.tokens)]
            done += len(part.tokens)
            if not len(found.targets):
                parts.append(_none(found))
                continue
            log_probs = self._log_probs(part, found, given)
            ce = cross_entropy_from_log_probs(log_probs, found.targets)
            kl = kl_from_log_probs(self._clean(index, number, part, found), log_probs)
            parts.append(NextTokenLosses(document=found.document, ce=ce, kl=kl))
        return NextTokenLosses.cat(parts)

    def _parts(self, batch: SequenceBatch) -> Iterator[tuple[SequenceBatch, Predictions]]:
        size = max(1, _LOGIT_ELEMENTS // (batch.tokens.shape[1] * self._lm.vocab_size))
        for start in range(0, len(batch.tokens), size):
            part = _rows(batch, start, start + size)
            yield part, predictions_of(part)

    def _clean(self, index: int, number: int, part: SequenceBatch, found: Predictions) -> Tensor:
        if not len(found.targets):
            return part.activations.new_empty(0, self._lm.vocab_size)
        name = f"clean_log_probs/{index}/{number}"
        return self._memo(name, lambda: self._log_probs(part, found, part.activations))

    def _log_probs(self, part: SequenceBatch, found: Predictions, activations: Tensor) -> Tensor:
        logits = self._lm.run_with_replacement(
            part.tokens, self._hookpoint, lambda x: activations.to(x), activations=part.activations
        )
        return torch.log_softmax(logits[found.keep].float(), -1)


class Head(NamedTuple):
    """What makes logits of the final states."""

    weight: Tensor
    """[vocab, d]."""
    bias: Tensor | None
    """[vocab]."""
    cap: float | None
    """Logits are cap · tanh(logits / cap) where there is one (Gemma 2)."""

    @property
    def linear(self) -> bool:
        """Whether the logits are linear in the states, rounding to a short dtype included."""
        return self.cap is None and self.weight.dtype == torch.float32

    def blocks(self, states: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(first token id, logits [n, block] float32) of states [n, d], block by block of the vocabulary."""
        elements = _BLOCK_ELEMENTS.get(states.device.type, _BLOCK_ELEMENTS["cpu"])
        size = max(256, elements // max(1, len(states)))
        for start in range(0, len(self.weight), size):
            bias = None if self.bias is None else self.bias[start : start + size]
            weight = self.weight[start : start + size]
            logits = product(states, weight.t()) if bias is None else F.linear(states, weight, bias)
            if self.cap is not None:
                logits = torch.tanh(logits / self.cap) * self.cap
            yield start, logits.float()


class Clean(NamedTuple):
    """What is kept of n clean predictions."""

    rows: Tensor
    """[n, d] float32: Σ_v p_v W_v where the head is linear, else the clean states."""
    offset: Tensor
    """[n] float64: log Z minus states · rows where the head is linear, else log Z."""
    ce: Tensor
    """[n] float64."""


class CleanTable:
    """`Clean` of all held-out predictions, on disk and read from there, or in memory."""

    def __init__(self, columns: Clean, ends: list[int], device: torch.device) -> None:
        self._columns, self._ends, self._device = columns, ends, device

    @staticmethod
    def fill(columns: Mapping[str, np.ndarray], parts: Iterable[Clean]) -> None:
        """Write the parts one after the other."""
        done = 0
        for part in parts:
            for name, column in columns.items():
                column[done : done + len(part.ce)] = getattr(part, name).cpu().numpy()
            done += len(part.ce)

    @classmethod
    def write(cls, folder: Path, n: int, d: int, parts: Iterable[Clean]) -> None:
        """Write the n predictions of the parts into a folder."""
        columns = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
            for name, dtype, shape in _layout(n, d)
        }
        cls.fill(columns, parts)
        for column in columns.values():
            column.flush()

    @classmethod
    def open(cls, folder: Path, ends: list[int], device: torch.device) -> CleanTable:
        """The table in a folder, read as it is needed."""
        # Copy on write: torch warns of memory that cannot be written to.
        columns = (torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c")) for name in Clean._fields)
        return cls(Clean(*columns), ends, device)

    @classmethod
    def hold(cls, n: int, d: int, parts: Iterable[Clean], ends: list[int], device: torch.device) -> CleanTable:
        """The table in memory."""
        columns = {name: np.empty(shape, dtype) for name, dtype, shape in _layout(n, d)}
        cls.fill(columns, parts)
        return cls(Clean(*(torch.from_numpy(columns[name]) for name in Clean._fields)), ends, device)

    def batch(self, index: int) -> Clean:
        """Of the predictions of batch `index`."""
        here = slice(self._ends[index - 1] if index else 0, self._ends[index])
        return Clean(*(column[here].to(self._device) for column in self._columns))


def _layout(n: int, d: int) -> tuple[tuple[str, type, tuple[int, ...]], ...]:
    return ("rows", np.float32, (n, d)), ("offset", np.float64, (n,)), ("ce", np.float64, (n,))


class _Reached(Exception):
    """Ends a forward pass at the head."""


class HeadReadout:
    """For a `LanguageModel` whose logits are a function of its head alone: see the top of this file."""

    def __init__(self, lm: LanguageModel, hookpoint: str, head: Head) -> None:
        self._lm, self._hookpoint, self._head = lm, hookpoint, head
        self._table: CleanTable | None = None

    @classmethod
    def of(cls, lm: LanguageModelView, hookpoint: str, tokens: Tensor) -> HeadReadout | None:
        """The readout of an LM, or None where it shows its logits alone, or does more to them than its head does.

        The latter is tried on `tokens` [1, s].
        """
        if not isinstance(lm, LanguageModel):
            return None
        module = lm.model.get_output_embeddings()
        if not isinstance(module, nn.Linear):
            return None
        cap = getattr(lm.model.config.get_text_config(), "final_logit_softcapping", None)
        readout = cls(lm, hookpoint, Head(module.weight.detach(), module.bias, cap))
        tokens = tokens[:, :_TRIED_TOKENS]
        logits = lm.logits(tokens)[0]
        states = _head_input(lm, lambda: lm.logits(tokens))[0]
        own = torch.cat([block for _, block in readout._head.blocks(states)], dim=1)
        if own.shape != logits.shape or not bool(torch.isfinite(logits).all()):
            return None
        near = (own - logits).abs().max() <= _TOLERANCE * logits.abs().max()
        return readout if bool(near) else None

    @property
    def width(self) -> int:
        """d of the final states."""
        return self._head.weight.shape[1]

    def use(self, table: CleanTable) -> None:
        """Take what was kept of the clean predictions."""
        self._table = table

    @torch.no_grad()
    def make_clean(self, batches: Iterable[SequenceBatch]) -> Iterator[Clean]:
        """What is to be kept of each batch's clean predictions. The LM goes on from the stored activations."""
        for batch in batches:
            found = predictions_of(batch)
            if not len(found.targets):
                continue
            states = self._states(batch, found, batch.activations)
            swept = self._sweep(states, found.targets, with_mean=self._head.linear)
            ce = swept.log_z - swept.target
            if not self._head.linear:
                yield Clean(states.float(), swept.log_z, ce)
            else:
                assert swept.mean is not None
                yield Clean(swept.mean, swept.log_z - _dots(states, swept.mean), ce)

    def clean(self, index: int, batch: SequenceBatch) -> NextTokenLosses:
        """When nothing is replaced."""
        ce = self._clean(index).ce
        return NextTokenLosses(document=predictions_of(batch).document, ce=ce, kl=torch.zeros_like(ce))

    @torch.no_grad()
    def losses(self, index: int, batch: SequenceBatch, activations: Tensor) -> NextTokenLosses:
        """When the hookpoint gives `activations`."""
        found = predictions_of(batch)
        if not len(found.targets):
            return _none(found)
        clean = self._clean(index)
        states = self._states(batch, found, activations)
        if self._head.linear:
            swept = self._sweep(states, found.targets)
            kl = swept.log_z - clean.offset - _dots(states, clean.rows)
        else:
            swept = self._sweep(states, found.targets, beside=clean)
            kl = swept.cross + swept.log_z - clean.offset
        return NextTokenLosses(document=found.document, ce=swept.log_z - swept.target, kl=kl)

    def _clean(self, index: int) -> Clean:
        assert self._table is not None, "use() comes first"
        return self._table.batch(index)

    def _states(self, batch: SequenceBatch, found: Predictions, activations: Tensor) -> Tensor:
        """[n, d]: what the head reads at the counted positions when the hookpoint gives `activations`."""
        size = max(1, self._lm.tokens_per_batch // batch.tokens.shape[1])
        kept = []
        for start in range(0, len(batch.tokens), size):
            here = slice(start, start + size)
            run = partial(self._run, batch.tokens[here], activations[here])
            kept.append(_head_input(self._lm, run)[found.keep[here]])
        return torch.cat(kept)

    def _run(self, tokens: Tensor, activations: Tensor) -> Tensor:
        return self._lm.run_with_replacement(
            tokens, self._hookpoint, lambda x: activations.to(x), activations=activations
        )

    def _sweep(
        self, states: Tensor, targets: Tensor, *, with_mean: bool = False, beside: Clean | None = None
    ) -> _Swept:
        """Once through the vocabulary; the softmax is made on the way, as in Milakov & Gimelshein, arXiv:1805.02867."""
        n = len(states)
        top = states.new_full((n,), -torch.inf, dtype=torch.float32)
        total, cross = torch.zeros_like(top, dtype=torch.float64), torch.zeros_like(top, dtype=torch.float64)
        target = torch.zeros_like(top)
        mean = states.new_zeros(states.shape, dtype=torch.float32) if with_mean else None
        twins = self._head.blocks(beside.rows.to(states.dtype)) if beside is not None else None
        for start, logits in self._head.blocks(states):
            stop = start + logits.shape[1]
            hit = ((targets >= start) & (targets < stop)).nonzero().squeeze(1)
            target[hit] = logits[hit, targets[hit] - start]
            if twins is not None and beside is not None:
                _, clean = next(twins)
                probabilities = (clean - beside.offset[:, None].float()).exp_()
                cross += (probabilities * (clean - logits)).sum(1)
            higher = torch.maximum(top, logits.amax(1))
            weights = logits.sub_(higher[:, None]).exp_()
            fallen = (top.double() - higher.double()).exp_()
            total.mul_(fallen).add_(weights.sum(1))
            if mean is not None:
                mean.mul_(fallen.float()[:, None]).addmm_(weights, self._head.weight[start:stop])
            top = higher
        log_z = total.log() + top
        if not bool(torch.isfinite(log_z).all()):
            raise NonFiniteError("NaN or infinite values in the logits.")
        if mean is not None:
            mean.div_(total.float()[:, None])
        return _Swept(log_z, target.double(), cross, mean)


class _Swept(NamedTuple):
    log_z: Tensor
    """[n] float64."""
    target: Tensor
    """[n] float64: the logit of the token predicted."""
    cross: Tensor
    """[n] float64: Σ p (clean logit - logit), where clean states were given beside."""
    mean: Tensor | None
    """[n, d] float32: Σ_v p_v W_v."""


def _head_input(lm: LanguageModel, run: Callable[[], object]) -> Tensor:
    """[b, s, d]: what the head reads in the forward pass that `run` makes; the pass ends there."""
    found: list[Tensor] = []

    def stop(_module: nn.Module, args: tuple[Any, ...]) -> None:
        found.append(args[0])
        raise _Reached

    handle = lm.model.get_output_embeddings().register_forward_pre_hook(stop)
    try:
        run()
    except _Reached:
        pass
    finally:
        handle.remove()
    return found[0]


def _none(found: Predictions) -> NextTokenLosses:
    """The losses of a batch without a counted prediction, on its device."""
    nothing = found.document.double()
    return NextTokenLosses(document=found.document, ce=nothing, kl=nothing)


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """[n] float64: dot products of the rows of two [n, d]."""
    return (a.double() * b.double()).sum(1)


def _rows(batch: SequenceBatch, start: int, stop: int) -> SequenceBatch:
    here = slice(start, stop)
    return SequenceBatch(
        tokens=batch.tokens[here],
        activations=batch.activations[here],
        mask=batch.mask[here],
        document=batch.document[here],
    )
