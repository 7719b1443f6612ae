"""Labelled texts with known answers for the conformance kit and for plugins' own tests; they need no tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from ..data.labelled import LabelledSet, distinct, sample
from ..interfaces.labelled import Sample, Sizes
from ..interfaces.texts import TextBatch
from .fixtures import VOCAB, TinyLM, tiny_activations

MARKED, STARRED = 7, 3
"""The tokens that texts of class 1 of the tasks `marked` and `starred` hold, and no others do."""
_N_TEXTS = 240
_LENGTH = 6


class PlantedTexts:
    """Texts of a few tokens of the planted world, written as numbers, in three binary tasks of every collection.

    `marked`: does the text hold token 7; `starred`: does it hold token 3; `coin`: a fair coin, which no activation
    knows.
    """

    def __init__(self, language_model: TinyLM, *, batch_texts: int = 32) -> None:
        self._lm = language_model
        self._batch_texts = batch_texts

    def missing(self, collections: Iterable[str]) -> str:
        """Nothing is missing."""
        return ""

    def samples(self, collection: str, sizes: Sizes, seed: int) -> tuple[Sample, ...]:
        """The three tasks, drawn with the seed; `collection` is any name."""
        return tuple(sample(labelled, sizes, seed) for labelled in planted_sets())

    def activations(self, texts: Sequence[str], *, max_tokens: int, last_tokens: int) -> Iterator[TextBatch]:
        """The planted activations of the texts' last tokens; each batch counts as a call of the LM."""
        for start in range(0, len(texts), self._batch_texts):
            rows, owners = [], []
            for number, text in enumerate(texts[start : start + self._batch_texts], start=start):
                tokens = torch.tensor([[0, *map(int, text.split()[-max_tokens:])]])
                rows.append(tiny_activations(tokens)[0, 1:][-last_tokens:])
                owners += [number] * len(rows[-1])
            self._lm.n_calls += 1
            yield TextBatch(rows=torch.cat(rows), text=torch.tensor(owners))


def planted_sets() -> tuple[LabelledSet, ...]:
    """The three tasks, by name: `coin`, `marked`, `starred`."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(8, VOCAB, (_N_TEXTS, _LENGTH), generator=generator)
    marked, starred = torch.arange(_N_TEXTS) % 2 == 1, torch.arange(_N_TEXTS) // 2 % 2 == 1
    # More than once, so that the mean over a text's tokens carries it.
    tokens[:, 1:3] = torch.where(marked[:, None], MARKED, tokens[:, 1:3])
    tokens[:, 3:5] = torch.where(starred[:, None], STARRED, tokens[:, 3:5])
    labels = {
        "coin": torch.rand(_N_TEXTS, generator=generator) < 0.5,
        "marked": marked,
        "starred": starred,
    }
    texts = [" ".join(map(str, row)) for row in tokens.tolist()]
    sets = []
    for name, own in labels.items():
        kept, classes = distinct(texts, own.int().tolist())
        sets.append(
            LabelledSet(
                name=name, texts=kept, labels=classes, classes=("no", "yes"), licence="Apache-2.0", source="generated"
            )
        )
    return tuple(sets)
