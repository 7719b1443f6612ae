"""Labelled texts with known answers for the conformance kit and for plugins' own tests; they need no tokenizer."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from ..data.labelled import LabelledSet, distinct, sample
from ..errors import DataError, PluginError
from ..evaluation.judge import Completion, Message
from ..interfaces.labelled import Sample, Sizes
from ..interfaces.prompts import PromptBatch
from ..interfaces.specs import AnalysisSpec, EvaluatorSpec
from ..interfaces.texts import TextBatch
from .fixtures import VOCAB, TinyLM, tiny_activations

Rows = Callable[[str], Iterable[Mapping[str, Any]]]

MARKED, STARRED = 7, 3
"""The tokens that texts of class 1 of the tasks `marked` and `starred` hold, and no others do."""
_N_TEXTS = 240
_LENGTH = 6


class PlantedTexts:
    """Texts of a few tokens of the planted world, written as numbers, in three binary tasks of every collection.

    `marked`: does the text hold token 7; `starred`: does it hold token 3; `coin`: a fair coin, which no activation
    knows.
    """

    def __init__(self, language_model: TinyLM, *, batch_texts: int = 32, rows: Rows | None = None) -> None:
        """`rows` gives the rows of a table by its name; they must be made of the same texts."""
        self._lm = language_model
        self._batch_texts = batch_texts
        self._rows = rows

    def missing(self, collections: Iterable[str]) -> str:
        """Nothing is missing."""
        return ""

    def samples(self, collection: str, sizes: Sizes, seed: int) -> tuple[Sample, ...]:
        """The three tasks, drawn with the seed; `collection` is any name."""
        return tuple(sample(labelled, sizes, seed) for labelled in planted_sets())

    def table(self, name: str) -> tuple[Mapping[str, Any], ...]:
        """The rows of a table.

        Raises:
            DataError: the evaluator gives no planted rows.
        """
        if self._rows is None:
            raise DataError(f"No planted rows of {name!r}: name the function that gives them in the spec's `planted`.")
        return tuple(self._rows(name))

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The numbers that the texts are made of."""
        return [[int(number) for number in text.split()] for text in texts]

    def prompt_batches(self, prompts: Sequence[Sequence[str]], max_tokens: int | None) -> Iterator[PromptBatch]:
        """Prompts in batches of one length, longest first; token 0 stands before each."""
        encoded = [self.token_ids(prompt) for prompt in prompts]
        rows = [
            [(number, token) for number, ids in enumerate(found) for token in ids][:max_tokens] for found in encoded
        ]
        for length in sorted({len(row) for row in rows}, reverse=True):
            same = [index for index, row in enumerate(rows) if len(row) == length]
            if length == 0:
                raise DataError(f"The prompt {prompts[same[0]]!r} has no token.")
            for start in range(0, len(same), self._batch_texts):
                index = same[start : start + self._batch_texts]
                tokens = torch.tensor([[0, *(token for _, token in rows[i])] for i in index])
                self._lm.n_calls += 1
                yield PromptBatch(
                    index=torch.tensor(index),
                    tokens=tokens,
                    part=torch.tensor([[-1, *(part for part, _ in rows[i])] for i in index]),
                    activations=tiny_activations(tokens),
                )

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


class PlantedJudge:
    """Explains by the most frequent word between << and >>, and names the numbered texts that hold it."""

    identity: Mapping[str, Any] = MappingProxyType({"kind": "planted"})

    def complete(self, messages: Sequence[Message], max_tokens: int) -> Completion:
        """The reply to the last message."""
        asked = messages[-1].content
        marked = Counter(re.findall(r"<<(.*?)>>", asked))
        if marked:
            said = f"activates on {marked.most_common(1)[0][0]}"
        else:
            wanted = re.search(r"fires on (\S+?)\.?$", asked, flags=re.MULTILINE)
            lines = re.findall(r"^(\d+)\. (.*)$", asked, flags=re.MULTILINE)
            said = ", ".join(n for n, text in lines if wanted and wanted[1] in text.split()) or "None"
        return Completion(said, len(asked.split()), len(said.split()))


def planted_rows(spec: EvaluatorSpec | AnalysisSpec) -> Rows | None:
    """What gives the rows of an evaluator's or an analysis' tables in the planted world; None where it names nothing.

    Raises:
        PluginError: what it names cannot be imported.
    """
    if not spec.planted:
        return None
    module, _, function = spec.planted.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"{spec.name!r} names {spec.planted!r} in `planted`: {error}.") from error


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
