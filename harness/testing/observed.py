"""What the checks of evaluators and analyses look on with: contexts that count what is asked of them, and the state of
the global generators."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation.context import StoreEvalContext
from ..evaluation.judge import Judge
from ..interfaces.batch import SequenceBatch
from .fixtures import HOOKPOINT, TinyLM, tiny_store, tiny_truth
from .texts import PlantedJudge, PlantedTexts, Rows


class Observed(StoreEvalContext):
    """A context that counts what is asked of it."""

    def __init__(
        self, *, batch_sequences: int, language_model: bool, rows: Rows | None = None, n_sequences: int = 12
    ) -> None:
        self.store = tiny_store(1, n_sequences=n_sequences)
        self.lm = TinyLM() if language_model else None
        super().__init__(
            self.store,
            hookpoint=HOOKPOINT,
            data_id="tiny",
            seed=0,
            language_model=self.lm,
            lm_sha256="tiny" if language_model else "",
            texts=PlantedTexts(self.lm, rows=rows) if self.lm is not None else None,
            truth=tiny_truth(1, n_sequences=n_sequences),
            batch_sequences=batch_sequences,
        )

    def judge(self, make: Callable[[Path | None], Any]) -> Judge:
        """A judge that follows a rule, in place of the one that `make` would give."""
        return Judge(PlantedJudge(), None)


class Uncounted(Observed):
    """A context whose batches hold no counted token, or of which there are none."""

    def __init__(self, *, language_model: bool, masked: bool) -> None:
        super().__init__(batch_sequences=12, language_model=language_model)
        self.asked = False
        self._masked = masked

    def batches(self) -> Iterator[SequenceBatch]:
        self.asked = True
        if self._masked:
            for batch in super().batches():
                yield dataclasses.replace(batch, mask=torch.zeros_like(batch.mask))


def random_states() -> dict[str, object]:
    """Of the global generators of torch, numpy and random, to be compared."""
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (kind, np.asarray(keys).tobytes(), *rest),
        "random": random.getstate(),
    }


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed the global generators for the time of a block."""
    saved = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(saved[0])
        np.random.set_state(saved[1])
        random.setstate(saved[2])
