"""The Evaluator interface: held-out data and an LM in, exactly the declared metrics out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from .batch import SequenceBatch
from .sae import SAE
from .specs import MetricValue, Option


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
    ) -> Tensor:
        """Logits [b, s, vocab] with the hookpoint's output [b, s, d_in] passed through `replace`.

        Give `activations` (those of a `SequenceBatch`) where they are known: the layers before them are then
        skipped, with the same result.
        """
        ...


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

    @property
    @abstractmethod
    def language_model(self) -> LanguageModelView:
        """The LM; only for evaluators whose spec needs `language_model`."""

    @abstractmethod
    def generator(self, purpose: str) -> torch.Generator:
        """A fresh generator that depends on (seed, purpose) alone: results do not depend on call order."""

    @abstractmethod
    def shared(self, name: str, inputs: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors that do not depend on the SAE (clean losses, probes on raw activations): made once, cached on
        disk by (LM, hookpoint, data, name, inputs, the caller's code) and shared by all SAEs."""

    def memo(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A large tensor that does not depend on the SAE (clean logits): a context may keep it in memory while there
        is room, and calls `make` again where there is none. Not to be edited."""
        return make()


class Evaluator(ABC):
    """Measures one SAE. Built as `Class(options)`."""

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        self.options = dict(options or {})

    @abstractmethod
    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """The metrics the spec declares, no more and no fewer. Runs without gradient, in eval mode; must leave
        weights, grad mode and the global random state as they were. Raises DataError on empty data."""
