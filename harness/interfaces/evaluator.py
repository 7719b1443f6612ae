"""The Evaluator interface: held-out data and an LM in, exactly the declared metrics out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import DataError
from .batch import SequenceBatch
from .labelled import Sample, Sizes
from .prompts import PromptBatch
from .sae import SAE, RaggedCodes
from .specs import MetricValue, Option
from .texts import TextBatch
from .truth import WorldTruth


class LanguageModelView(Protocol):
    """The part of a language model evaluators use."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        ...

    def logits(self, tokens: Tensor) -> Tensor:
        """[b, s, vocab] float32 of tokens [b, s]."""
        ...

    def run_with_replacement(
        self,
        tokens: Tensor,
        hookpoint: str,
        replace: Callable[[Tensor], Tensor],
        *,
        activations: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Logits [b, s, vocab] with the hookpoint's output [b, s, d_in] passed through `replace`; with `positions` [p]
        int64 those of these positions alone, [b, p, vocab].

        Give `activations` (those of a `SequenceBatch`) where they are known: the layers before them are then
        skipped, with the same result. Where only losses are wanted, `EvalContext.next_token_losses` is faster.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedBatch:
    """Held-out sequences, and the codes that an SAE gives their n counted tokens."""

    batch: SequenceBatch
    rows: Tensor
    """[n, d_in]: the activations of the counted tokens."""
    document: Tensor
    """[n] int64."""
    codes: RaggedCodes
    """Of `rows`: active latents alone, so no value is 0, and a token's latents ascend. Not to be edited."""
    decode: Callable[[RaggedCodes], Tensor]
    """Reconstruction [m, d_in] float32 of the codes of any m tokens: these, or an edited copy."""

    def reconstruction(self) -> Tensor:
        """[n, d_in]: the SAE's output for `rows`, decoded anew by each call."""
        return self.decode(self.codes)

    def replaced(self, rows: Tensor) -> Tensor:
        """The batch's activations [b, s, d_in] with `rows` [n, d_in] in place of those of the counted tokens."""
        return self.batch.activations.masked_scatter(self.batch.mask[..., None], rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTokenLosses:
    """Losses of next-token predictions, in the order of the data.

    Counted are those made at a counted token (`SequenceBatch.mask`) of a counted token.
    """

    document: Tensor
    """[n] int64: the document of each prediction."""
    ce: Tensor
    """[n] float64: cross-entropy in nats."""
    kl: Tensor
    """[n] float64: KL(clean || this) in nats, of the distributions over the vocabulary."""

    def __len__(self) -> int:
        return self.document.shape[0]

    @staticmethod
    def cat(parts: Iterable[NextTokenLosses]) -> NextTokenLosses:
        """All of the parts, in order; of none, empty."""
        found: Sequence[NextTokenLosses] = list(parts) or [_no_losses()]
        document, ce, kl = (torch.cat([getattr(part, name) for part in found]) for name in ("document", "ce", "kl"))
        return NextTokenLosses(document=document, ce=ce, kl=kl)


def _no_losses() -> NextTokenLosses:
    none = torch.empty(0, dtype=torch.float64)
    return NextTokenLosses(document=none.long(), ce=none, kl=none)


class EvalContext(ABC):
    """What an evaluator may use besides the SAE."""

    hookpoint: str
    d_in: int
    device: torch.device
    seed: int
    """Evaluation seed: the same for every SAE of a suite."""

    @abstractmethod
    def batches(self) -> Iterator[SequenceBatch]:
        """The held-out sequences, always in the same order."""

    @abstractmethod
    def encoded(self, sae: SAE) -> Iterator[EncodedBatch]:
        """The batches of `batches()`, each with the codes of its counted tokens (a batch may have none).

        Codes are made once for all evaluators of one SAE, as far as memory goes, and only their active latents are
        kept: prefer this to `sae.encode`. To measure a changed SAE, give a changed copy.

        Raises:
            NonFiniteError: a code is NaN or infinite.
        """

    @abstractmethod
    def encode(self, sae: SAE, rows: Tensor) -> RaggedCodes:
        """Codes of other activations [n, d_in], as `EncodedBatch.codes` has them; they are not kept.

        Raises:
            NonFiniteError: a code is NaN or infinite.
        """

    @abstractmethod
    def next_token_losses(self, replacements: Iterable[Tensor]) -> Iterator[NextTokenLosses]:
        """For each batch of `batches()`, the LM's losses when the hookpoint gives the replacement [b, s, d_in] of the
        same place. Only for evaluators whose spec needs `language_model`.

            losses = context.next_token_losses(p.replaced(p.reconstruction()) for p in context.encoded(sae))

        Raises:
            DataError: there are fewer replacements than batches.
            ShapeError: a replacement has not the shape of its batch's activations.
            NonFiniteError: a logit is NaN or infinite.
        """

    @abstractmethod
    def clean_losses(self) -> NextTokenLosses:
        """The LM's losses on all held-out data when nothing is replaced; made once for all SAEs and evaluators.

        The LM goes on from the stored activations here too, so that what rounding storage brings is in all losses.
        """

    @abstractmethod
    def ablated_losses(self) -> NextTokenLosses:
        """The losses when the activations of counted tokens are replaced by 0, and those of other tokens are left;
        made once for all SAEs and evaluators."""

    @property
    @abstractmethod
    def language_model(self) -> LanguageModelView:
        """The LM; only for evaluators whose spec needs `language_model`."""

    @property
    def truth(self) -> WorldTruth:
        """What is known of the held-out data where they come from a world; only for evaluators whose spec needs
        `world`. Raises DataError where there is none."""
        raise DataError("These data have no ground truth: an evaluator that uses it must declare needs={'world'}.")

    @property
    def twin(self) -> SAE:
        """The same method's SAE of another training seed; only for evaluators whose spec needs `twin`. Raises DataError
        where there is none."""
        raise DataError("There is no SAE of another seed: an evaluator that uses it must declare needs={'twin'}.")

    @abstractmethod
    def generator(self, purpose: str) -> torch.Generator:
        """A fresh generator that depends on (seed, purpose) alone: results do not depend on call order."""

    @abstractmethod
    def shared(self, name: str, inputs: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors that do not depend on the SAE (statistics of raw activations, probes on them): made once, cached on
        disk by (LM, hookpoint, data, name, inputs, the caller's code) and shared by all SAEs."""

    def labelled_samples(self, collection: str, sizes: Sizes) -> tuple[Sample, ...]:
        """The binary tasks of a collection of labelled texts, by name: of each, the texts to train, choose and test a
        probe on, drawn with this context's seed. Name the collection in the spec's `texts`.

        Raises:
            DataError: the collection has not been fetched, or none of its sets is large enough.
        """
        raise DataError(f"There are no labelled texts here: an evaluator that uses {collection!r} cannot run.")

    def text_activations(self, texts: Sequence[str], *, max_tokens: int, last_tokens: int) -> Iterator[TextBatch]:
        """The LM's activations of the last `last_tokens` tokens of each text, read in the context of its last
        `max_tokens` tokens; made once for all SAEs and kept on disk.

        Raises:
            DataError: there is no language model, or a text has no token.
        """
        raise DataError("There are no activations of texts here: the evaluator cannot run.")

    def table(self, name: str) -> tuple[Mapping[str, Any], ...]:
        """The rows of a fetched table (words, questions, entities), in their order. Name it in the spec's `texts`.

        Raises:
            DataError: the table has not been fetched, or its files are damaged.
        """
        raise DataError(f"There are no tables here: an evaluator that reads {name!r} cannot run.")

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The LM's token ids of each text, without special tokens. Raises DataError where there is no LM."""
        raise DataError("There is no tokenizer here: the evaluator cannot run.")

    def token_text(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself, with the space it begins with; the replacement character U+FFFD stands for
        bytes that are no whole character. Raises DataError where there is no tokenizer."""
        raise DataError("There is no tokenizer here: tokens have no text.")

    def prompt_batches(
        self, prompts: Sequence[Sequence[str]], *, max_tokens: int | None = None
    ) -> Iterator[PromptBatch]:
        """The prompts in batches of like lengths (so not in their order), with the LM's activations; those are made
        once for all SAEs and kept on disk.

        Args:
            prompts: of each, its parts; a part is tokenized by itself, and may begin with a space.
            max_tokens: what is longer is cut at its end.

        Raises:
            DataError: there is no LM, a prompt has no token, or one is longer than the LM takes.
        """
        raise DataError("There are no activations of prompts here: the evaluator cannot run.")

    def prompt_logprobs(self, batch: PromptBatch, activations: Tensor) -> Tensor:
        """[b, s] float32: log-probability (nats) of each token given those before it, when the hookpoint gives
        `activations` [b, s, d_in]; 0 for the first token and where `batch.part` is -1.

        Raises:
            NonFiniteError: a logit is NaN or infinite.
        """
        raise DataError("There is no language model here: the evaluator cannot run.")

    def prompt_logits(self, batch: PromptBatch, activations: Tensor, positions: Tensor) -> Tensor:
        """[b, vocab] float32: logits for what follows the token at `positions` [b] int64, when the hookpoint gives
        `activations` [b, s, d_in].

        Raises:
            NonFiniteError: a logit is NaN or infinite.
        """
        raise DataError("There is no language model here: the evaluator cannot run.")

    def judge(self, make: Callable[[Path | None], Any]) -> Any:
        """The judge of an evaluator that asks one: what `make(folder)` gives, where `folder` keeps replies (None where
        nothing is kept). The conformance kit gives a planted one instead, so that checks call nobody."""
        return make(None)

    def memo(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A large tensor that does not depend on the SAE: a context may keep it in memory while there is room, and
        calls `make` again where there is none. Not to be edited."""
        return make()


class Evaluator(ABC):
    """Measures one SAE. Built as `Class(options)`."""

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        self.options = dict(options or {})

    @abstractmethod
    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """The metrics the spec declares, no more and no fewer. Runs without gradient, in eval mode; must leave
        weights, grad mode and the global random state as they were. Raises DataError on empty data."""
