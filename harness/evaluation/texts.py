"""Texts of evaluators' own: labelled samples of them, and their activations, made once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..artefacts.cache import Cache
from ..data.labelled import binary, collection_sha256, load_collection, sample
from ..data.tables import load_table
from ..data.text_mix import held_out_rows
from ..errors import DataError
from ..interfaces.labelled import LabelledSet, Sample, Sizes
from ..interfaces.prompts import PromptBatch
from ..interfaces.texts import TextBatch
from .prompts import PromptData, TextModel

TEXTS_VERSION = 1
"""Raised by every change here that can move an activation or a sample."""

_CHARACTERS_PER_TOKEN = 24
"""A text is cut to so many of its last characters for each token wanted, before it is tokenized: few tokens are
longer, and tokenizing whole books for their last lines takes minutes."""
_BATCH_TOKENS = 4096
_OPENING = (
    "The following is one text of many. It is given here without a title and without the name of its author, and "
    "it may begin or end in the middle of a sentence. Please read it with care, from its beginning to its end.\n\n"
)
"""Stands before each text where a suite counts no token at the start of a sequence (`mask_first`): a short text would
otherwise have no counted token."""


class TextData:
    """Labelled collections on this machine, and the activations of any texts at one hookpoint of one LM."""

    def __init__(
        self,
        language_model: TextModel,
        *,
        hookpoint: str,
        lm_identity: Mapping[str, Any],
        collections: Path,
        cache: Cache | None = None,
        prepend_bos: bool = True,
        mask_first: int = 0,
        trained_tables: Collection[str] = (),
    ) -> None:
        """`lm_identity`: what the activations depend on besides the texts (weights' hash, dtype, device), for the
        cache's keys. `collections`: the folder that `sae-harness fetch` fills. Without a cache, what is made is held
        in memory. `prepend_bos` and `mask_first` are those of the suite's text. `trained_tables`: those that the suite
        trains on, of which `table` gives what is held out alone."""
        self._lm = language_model
        self._hookpoint = hookpoint
        self._identity = dict(lm_identity)
        self._collections = collections
        self._cache = cache
        self._prepend_bos = prepend_bos
        self._mask_first = mask_first
        self._sets: dict[str, tuple[LabelledSet, ...]] = {}
        self._trained_tables = frozenset(trained_tables)
        self._tables: dict[str, tuple[Mapping[str, Any], ...]] = {}
        self._held: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def missing(self, collections: Iterable[str]) -> str:
        """Why these collections cannot be read, with the mend; empty where they are there."""
        absent = [name for name in collections if not collection_sha256(self._collections, name)]
        return "; ".join(f"labelled texts {name!r} are not here: run: sae-harness fetch {name}" for name in absent)

    def labelled_sets(self, collection: str) -> tuple[LabelledSet, ...]:
        """The sets of a collection, by name.

        Raises:
            DataError: it has not been fetched, or its files are damaged.
        """
        if collection not in self._sets:
            self._sets[collection] = load_collection(self._collections, collection)
        return self._sets[collection]

    def samples(self, collection: str, sizes: Sizes, seed: int) -> tuple[Sample, ...]:
        """What probes see of each task of a collection, by name; sets of several classes are cut into binary tasks,
        and tasks that are too small are left out.

        Raises:
            DataError: the collection has not been fetched, its files are damaged, or no task is large enough.
        """
        index = collection_sha256(self._collections, collection)
        if self._cache is None or not index:
            return _samples(self.labelled_sets(collection), sizes, seed)

        def make(folder: Path) -> None:
            made = _samples(self.labelled_sets(collection), sizes, seed)
            rows = [{"name": s.name, "texts": s.texts, "labels": s.labels, "ends": s.ends} for s in made]
            (folder / "samples.json").write_text(json.dumps(rows))

        inputs = {"index": index, "sizes": sizes, "seed": seed}
        folder = self._cache.get_or_make("labelled_samples", inputs, TEXTS_VERSION, make)
        rows = json.loads((folder / "samples.json").read_text())
        return tuple(
            Sample(
                name=row["name"],
                texts=tuple(row["texts"]),
                labels=tuple(row["labels"]),
                ends=tuple(row["ends"]),
            )
            for row in rows
        )

    def table(self, name: str) -> tuple[Mapping[str, Any], ...]:
        """The rows of a fetched table; of one that the suite trains on, those that share no word with what it may be
        trained on.

        Raises:
            DataError: it has not been fetched, or its files are damaged.
        """
        if name not in self._tables:
            rows = load_table(self._collections, name).rows
            self._tables[name] = held_out_rows(rows) if name in self._trained_tables else rows
        return self._tables[name]

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        return self._lm.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def prompt_batches(self, prompts: Sequence[Sequence[str]], max_tokens: int | None) -> Iterator[PromptBatch]:
        """The prompts in batches of like lengths, with the LM's activations."""
        return self._prompts.batches(prompts, max_tokens)

    @cached_property
    def _prompts(self) -> PromptData:
        return PromptData(
            self._lm,
            hookpoint=self._hookpoint,
            identity={**self._identity, "tokenizer": self._lm.tokenizer_sha256},
            prefix=self._prefix,
            cache=self._cache,
        )

    def activations(self, texts: Sequence[str], *, max_tokens: int, last_tokens: int) -> Iterator[TextBatch]:
        """The activations of the last `last_tokens` tokens of each text, read in the context of its last `max_tokens`
        tokens; in the order of the texts, each text whole in one batch.

        Raises:
            DataError: a text has no token, or the LM takes no sequence of that length.
        """
        if not texts:
            raise DataError("Activations of no text were asked for: give at least one.")
        if not 1 <= last_tokens <= max_tokens:
            raise DataError(f"last_tokens must lie in [1, max_tokens = {max_tokens}], got {last_tokens}.")
        values, offsets = self._stored(texts, max_tokens, last_tokens)
        start = 0
        while start < len(texts):
            stop = int(np.searchsorted(offsets, offsets[start] + _BATCH_TOKENS, side="right")) - 1
            stop = max(start + 1, min(stop, len(texts)))
            lengths = torch.from_numpy(np.diff(offsets[start : stop + 1]))
            yield TextBatch(
                rows=torch.from_numpy(np.array(values[offsets[start] : offsets[stop]])),
                text=torch.arange(start, stop).repeat_interleave(lengths),
            )
            start = stop

    def _stored(self, texts: Sequence[str], max_tokens: int, last_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Activations [n, d] float32 and offsets [texts + 1]."""
        digest = hashlib.sha256()
        for text in texts:
            digest.update(json.dumps(text).encode())
        inputs = {
            **self._identity,
            "hookpoint": self._hookpoint,
            "tokenizer": self._lm.tokenizer_sha256,
            "prepend_bos": self._prepend_bos,
            "mask_first": self._mask_first,
            "texts": digest.hexdigest(),
            "max_tokens": max_tokens,
            "last_tokens": last_tokens,
        }
        if self._cache is None:
            key = json.dumps(inputs, sort_keys=True, default=str)
            if key not in self._held:
                sequences, counted = self._tokens(texts, max_tokens, last_tokens)
                offsets = _offsets(counted)
                self._held[key] = self._capture(sequences, counted, offsets, None), offsets
            return self._held[key]

        def make(folder: Path) -> None:
            sequences, counted = self._tokens(texts, max_tokens, last_tokens)
            offsets = _offsets(counted)
            np.save(folder / "offsets.npy", offsets)
            self._capture(sequences, counted, offsets, folder / "values.npy")

        folder = self._cache.get_or_make("text_activations", inputs, TEXTS_VERSION, make)
        return np.load(folder / "values.npy", mmap_mode="r"), np.load(folder / "offsets.npy")

    def _tokens(self, texts: Sequence[str], max_tokens: int, last_tokens: int) -> tuple[list[Tensor], list[Tensor]]:
        """Token ids of each text with what stands before it, and which of them are counted (bool)."""
        tokenizer = self._lm.tokenizer
        special = torch.tensor(sorted(set(tokenizer.all_special_ids)), dtype=torch.int64)
        prefix = self._prefix
        cut = [text[-_CHARACTERS_PER_TOKEN * max_tokens :] for text in texts]
        encoded = tokenizer(cut, add_special_tokens=False, verbose=False)["input_ids"]
        sequences, counted = [], []
        for text, ids in zip(texts, encoded, strict=True):
            own = torch.tensor(ids[-max_tokens:], dtype=torch.int64)
            tokens = torch.cat([prefix, own])
            keep = ~torch.isin(tokens, special)
            keep[: max(len(prefix), len(tokens) - last_tokens)] = False
            if not bool(keep.any()):
                raise DataError(f"The text {text[:60]!r} has no token that counts: leave it out.")
            sequences.append(tokens)
            counted.append(keep)
        return sequences, counted

    @cached_property
    def _prefix(self) -> Tensor:
        """[p] int64: BOS where the suite has one, and as many opening tokens as it does not count."""
        tokenizer = self._lm.tokenizer
        before: list[int] = []
        if self._prepend_bos:
            bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
            if bos is None:
                raise DataError("prepend_bos is true, but the tokenizer has neither a BOS nor an EOS token.")
            before = [bos]
        missing = self._mask_first - len(before)
        if missing > 0:
            opening = tokenizer([_OPENING], add_special_tokens=False)["input_ids"][0]
            before += (opening * (missing // len(opening) + 1))[-missing:]
        return torch.tensor(before, dtype=torch.int64)

    def _capture(
        self, sequences: Sequence[Tensor], counted: Sequence[Tensor], offsets: np.ndarray, path: Path | None
    ) -> np.ndarray:
        """Activations [n, d] float32 of the counted tokens, into a file where there is a path."""
        values: np.ndarray | None = None
        for batch in self._lm.ragged_batches(sequences, [self._hookpoint]):
            activations = batch.activations[self._hookpoint].cpu().float()
            if values is None:
                shape = (int(offsets[-1]), activations.shape[-1])
                values = (
                    np.empty(shape, np.float32)
                    if path is None
                    else np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
                )
            for row, index in enumerate(batch.index.tolist()):
                keep = counted[index]
                values[offsets[index] : offsets[index + 1]] = activations[row, : len(keep)][keep].numpy()
        if values is None:
            raise DataError("The language model gave no activations.")
        if isinstance(values, np.memmap):
            values.flush()
        return values


def _samples(sets: Sequence[LabelledSet], sizes: Sizes, seed: int) -> tuple[Sample, ...]:
    found: list[Sample] = []
    small: list[str] = []
    for labelled in sets:
        for task in binary(labelled):
            try:
                found.append(sample(task, sizes, seed))
            except DataError as error:
                small.append(str(error))
    if not found:
        raise DataError(f"No labelled set is large enough for a probe. {small[0] if small else 'There is none.'}")
    return tuple(sorted(found, key=lambda s: s.name))


def _offsets(counted: Sequence[Tensor]) -> np.ndarray:
    lengths = np.array([int(keep.sum()) for keep in counted], dtype=np.int64)
    return np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
