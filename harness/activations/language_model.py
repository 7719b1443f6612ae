"""A causal language model: captured at hookpoints, run on with a replacement, and resumed from the middle."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..config import LMConfig
from ..errors import DataError, HookpointError, ShapeError
from .hookpoints import HookSite, decoder_layers, find_hookpoint, list_hookpoints
from .loading import load_model, load_tokenizer
from .ragged import RaggedActivations, RaggedBatch, gather_ragged, length_buckets, pad_right
from .sources import LMSource

Replace = Callable[[Tensor], Tensor]

_CPU_ELEMENTS = 192 * 1024
"""Tokens times width of a batch on a CPU."""
_CPU_TOKENS = (512, 4096)
_ACCELERATOR_TOKENS = 8192


def load_language_model(config: LMConfig, source: LMSource, *, device: torch.device | str = "cpu") -> LanguageModel:
    """The language model of a resolved source. Its files are read on first use, so a run that needs only its
    hashes costs nothing."""
    return LanguageModel(config, source, device=device)


class _Captured(Exception):
    """Ends a forward pass once all hookpoints have been seen."""


class _Skipped(nn.Module):
    """Stands in for a decoder layer before the point where the model is resumed."""

    def __init__(self, layer: nn.Module, residual: Tensor, returns_tuple: bool) -> None:
        super().__init__()
        self.layer = layer
        self.residual = residual
        self.returns_tuple = returns_tuple

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        return (self.residual,) if self.returns_tuple else self.residual

    def __getattr__(self, name: str) -> Any:
        # Models read attributes of their layers, such as which kind of attention they use.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class LanguageModel:
    """A causal language model with frozen weights. Not for use from several threads at once."""

    def __init__(self, config: LMConfig, source: LMSource, *, device: torch.device | str = "cpu") -> None:
        self.config = config
        self.source = source
        self.device = torch.device(device)

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.source.name

    @property
    def weights_sha256(self) -> str:
        """Hash of the configuration and weight files."""
        return self.source.weights_sha256

    @property
    def tokenizer_sha256(self) -> str:
        """Hash of the tokenizer's files."""
        return self.source.tokenizer_sha256

    @cached_property
    def model(self) -> Any:
        """The transformers model, in evaluation mode, without gradients.

        Raises:
            MissingModelError: the files cannot be loaded or lack weights.
        """
        model = load_model(self.source, getattr(torch, self.config.dtype))
        return model.to(self.device).eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> Any:
        """The transformers tokenizer.

        Raises:
            MissingModelError: its files cannot be loaded.
        """
        return load_tokenizer(self.source)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self._text_config.vocab_size

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self._text_config.hidden_size

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return self._text_config.num_hidden_layers

    @property
    def max_positions(self) -> int | None:
        """Longest sequence, where the model states one."""
        return getattr(self._text_config, "max_position_embeddings", None)

    @property
    def tokens_per_batch(self) -> int:
        """Tokens a forward pass takes at once where the caller does not say.

        On a CPU few: temporary tensors of many megabytes are mapped and cleared anew by each operation. Beside 2048
        tokens, one thread computed GPT-2 small 3 to 12 % faster at 512 and the embedded LM 12 to 28 % faster at 1024
        (how much, is up to what was allocated before); the values were the same to the bit. The number for accelerators
        is not measured.
        """
        if self.device.type != "cpu":
            return _ACCELERATOR_TOKENS
        least, most = _CPU_TOKENS
        return max(least, min(most, _CPU_ELEMENTS // self.d_model))

    def hookpoints(self) -> tuple[str, ...]:
        """Names of the hookpoints with an alias; module paths where the family has none."""
        return list_hookpoints(self.model, self._model_type)

    def hook_dim(self, hookpoint: str) -> int:
        """Width of the activations at a hookpoint, found by running one token."""
        return self.hook_dims([hookpoint])[hookpoint]

    def hook_dims(self, hookpoints: Sequence[str]) -> dict[str, int]:
        """Width of the activations at each hookpoint, found by running one token."""
        found = self.capture(torch.zeros(1, 1, dtype=torch.int64), hookpoints)
        return {name: value.shape[-1] for name, value in found.items()}

    @torch.no_grad()
    def capture(self, tokens: Tensor, hookpoints: Sequence[str]) -> dict[str, Tensor]:
        """Activations [b, s, d] float32 at each hookpoint for tokens [b, s]; the pass ends after the last one.

        Raises:
            HookpointError: a hookpoint does not exist, or gives no [b, s, d] tensor.
            DataError: the sequences are longer than the model takes.
        """
        found: dict[str, Tensor] = {}
        sites = {name: self._site(name) for name in hookpoints}

        def keep(name: str) -> Callable[[Tensor], None]:
            def hook(value: Tensor) -> None:
                found[name] = value.detach().float()
                if len(found) == len(sites):
                    raise _Captured

            return hook

        handles = [self._attach(name, site, tokens, keep(name)) for name, site in sites.items()]
        try:
            self._forward(tokens)
        except _Captured:
            pass
        finally:
            for handle in handles:
                handle.remove()
        missed = [name for name in sites if name not in found]
        if missed:
            raise HookpointError(f"Hookpoint {missed[0]!r} is not reached in a forward pass: choose another module.")
        return found

    def activations_of(
        self,
        sequences: Sequence[Tensor],
        hookpoints: Sequence[str],
        *,
        tokens_per_batch: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, RaggedActivations]:
        """Activations of token sequences [length] of unlike lengths at each hookpoint, on the CPU, in the order given.

        Each sequence's are those of running it alone, up to rounding. All are held at once, lengths x d x 4 bytes a
        hookpoint: what is reduced at once, such as means over tokens, is better made from `ragged_batches`. `progress`
        is called with (sequences done, sequences in all).

        Raises:
            DataError: there is no sequence, one is empty, or one is longer than the model takes.
            HookpointError: as `capture`.
        """
        if not sequences:
            raise DataError("Activations of no sequence were asked for: give at least one.")
        lengths = torch.tensor([sequence.shape[0] for sequence in sequences])

        def told() -> Iterator[RaggedBatch]:
            done = 0
            for batch in self.ragged_batches(sequences, hookpoints, tokens_per_batch=tokens_per_batch):
                yield batch
                done += batch.index.shape[0]
                if progress is not None:
                    progress(done, len(sequences))

        return gather_ragged(told(), lengths, hookpoints)

    def ragged_batches(
        self, sequences: Sequence[Tensor], hookpoints: Sequence[str], *, tokens_per_batch: int | None = None
    ) -> Iterator[RaggedBatch]:
        """Activations of token sequences [length] in batches of like lengths, the longest first (see `length_buckets`).

        Only one batch is held. A batch has at most `tokens_per_batch` tokens, padding included, unless one sequence is
        longer than that.

        Raises:
            DataError: a sequence is empty, or longer than the model takes.
            HookpointError: as `capture`.
        """
        lengths = torch.tensor([sequence.shape[0] for sequence in sequences], dtype=torch.int64)
        budget = self.tokens_per_batch if tokens_per_batch is None else tokens_per_batch
        for index in length_buckets(lengths, budget):
            tokens, mask = pad_right([sequences[i] for i in index.tolist()])
            found = self.capture(tokens, hookpoints)
            if not bool(mask.all()):
                padding = ~mask.to(self.device)[..., None]
                found = {name: value.masked_fill(padding, 0.0) for name, value in found.items()}
            yield RaggedBatch(index=index, tokens=tokens, mask=mask, activations=found)

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """Logits [b, s, vocab] float32 of tokens [b, s]."""
        return self._forward(tokens).float()

    def run_with_replacement(
        self,
        tokens: Tensor,
        hookpoint: str,
        replace: Replace,
        *,
        activations: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Logits [b, s, vocab] float32 with the activations at `hookpoint` passed through `replace`; with `positions`
        [p] int64 those of these positions alone, [b, p, vocab]: the head is then not applied to the others.

        `replace` gets and returns [b, s, d] float32. `activations`, where the caller has them already, are given to
        `replace` in place of computed ones, and on the residual stream the layers before them are skipped.

        Raises:
            HookpointError: no such hookpoint.
            ShapeError: `replace` returns another shape.
        """
        site = self._site(hookpoint)
        if activations is not None:
            replaced = _checked(replace, activations.to(self.device).float())
            if site.next_layer is not None:
                return self.resume_from(hookpoint, replaced, tokens, positions=positions)
            return self._run_replaced(tokens, hookpoint, site, lambda _: replaced, positions)
        return self._run_replaced(tokens, hookpoint, site, replace, positions)

    def resume_from(
        self, hookpoint: str, activations: Tensor, tokens: Tensor, *, positions: Tensor | None = None
    ) -> Tensor:
        """Logits [b, s, vocab] float32 that follow from residual-stream activations [b, s, d]; the layers before
        them are not run. `positions` as in `run_with_replacement`.

        Raises:
            HookpointError: the hookpoint is not on the residual stream.
            ShapeError: `activations` do not fit `tokens`.
        """
        site = self._site(hookpoint)
        if site.next_layer is None:
            raise HookpointError(
                f"Cannot resume from {hookpoint!r}: it is not the residual stream. "
                "Use a hook_resid_pre or hook_resid_post, or run_with_replacement."
            )
        expected = (*tokens.shape, self.d_model)
        if tuple(activations.shape) != expected:
            raise ShapeError(f"Activations at {hookpoint!r} must be {expected}, got {tuple(activations.shape)}.")
        residual = activations.to(device=self.device, dtype=self.model.dtype)
        if site.next_layer == 0:
            return self._run_replaced(tokens, hookpoint, site, lambda _: residual.float(), positions)
        with self._skipping(site.next_layer, residual):
            return self._forward(tokens, positions).float()

    @property
    def _text_config(self) -> Any:
        return self.model.config.get_text_config()

    @property
    def _model_type(self) -> str:
        return self.model.config.model_type

    def _site(self, hookpoint: str) -> HookSite:
        return find_hookpoint(self.model, self._model_type, hookpoint)

    def _forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        if self.max_positions is not None and tokens.shape[-1] > self.max_positions:
            raise DataError(
                f"Sequences of {tokens.shape[-1]} tokens are too long for {self.name!r}, which takes "
                f"{self.max_positions}: lower text.seq_len."
            )
        given = tokens.to(self.device, torch.int64)
        if positions is None:
            return self.model(input_ids=given, use_cache=False).logits
        positions = positions.to(self.device, torch.int64)
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            return self.model(input_ids=given, use_cache=False, logits_to_keep=positions).logits
        return self.model(input_ids=given, use_cache=False).logits[:, positions]

    def _run_replaced(
        self, tokens: Tensor, hookpoint: str, site: HookSite, replace: Replace, positions: Tensor | None = None
    ) -> Tensor:
        def hook(value: Tensor) -> Tensor:
            return _checked(replace, value.float()).to(value)

        handle = self._attach(hookpoint, site, tokens, hook)
        try:
            return self._forward(tokens, positions).float()
        finally:
            handle.remove()

    def _attach(
        self, name: str, site: HookSite, tokens: Tensor, hook: Callable[[Tensor], Tensor | None]
    ) -> RemovableHandle:
        """Call `hook` with the activations at a site; what it returns replaces them, unless it is None."""
        module: nn.Module = self.model.get_submodule(site.path)

        def on_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            value = args[0] if args else kwargs["hidden_states"]
            new = hook(_expect_activations(value, name, tokens))
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

        def on_output(_module: nn.Module, _args: Any, output: Any) -> Any:
            value = output[0] if isinstance(output, tuple) else output
            new = hook(_expect_activations(value, name, tokens))
            return (new, *output[1:]) if new is not None and isinstance(output, tuple) else new

        if site.side == "input":
            return module.register_forward_pre_hook(on_input, with_kwargs=True)
        return module.register_forward_hook(on_output)

    @contextmanager
    def _skipping(self, n_layers: int, residual: Tensor) -> Iterator[None]:
        """For the time of the block, the first `n_layers` layers do no work and give `residual`."""
        returns_tuple = self._layers_return_tuples
        found = decoder_layers(self.model, self._model_type)
        assert found is not None, "only families with known layers have residual-stream hookpoints"
        layers = found[1]
        skipped = [layers[i] for i in range(n_layers)]
        try:
            for i, layer in enumerate(skipped):
                layers[i] = _Skipped(layer, residual, returns_tuple)
            yield
        finally:
            for i, layer in enumerate(skipped):
                layers[i] = layer

    @cached_property
    def _layers_return_tuples(self) -> bool:
        """Whether a decoder layer gives a tuple, which differs between releases of transformers."""
        found = decoder_layers(self.model, self._model_type)
        assert found is not None, "only families with known layers are resumed"
        kinds: list[bool] = []

        def stop(_module: nn.Module, _args: Any, output: Any) -> None:
            kinds.append(isinstance(output, tuple))
            raise _Captured

        handle = found[1][0].register_forward_hook(stop)
        try:
            self._forward(torch.zeros(1, 1, dtype=torch.int64))
        except _Captured:
            pass
        finally:
            handle.remove()
        return kinds[0]


def _expect_activations(value: Any, name: str, tokens: Tensor) -> Tensor:
    if (
        not isinstance(value, Tensor)
        or value.ndim != 3
        or value.shape[:2] != tokens.shape
        or not value.is_floating_point()
    ):
        got = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise HookpointError(f"Hookpoint {name!r} gives {got}, not activations [b, s, d]: choose another module.")
    return value


def _checked(replace: Replace, value: Tensor) -> Tensor:
    new = replace(value)
    if new.shape != value.shape:
        raise ShapeError(f"A replacement must keep the shape {tuple(value.shape)}, got {tuple(new.shape)}.")
    return new
