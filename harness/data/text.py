"""Text into documents into token sequences, split into training and evaluation by document hash. Loads no torch."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ..artefacts.cache import Cache
from ..config import TextConfig
from ..errors import DataError
from .text_mix import mix_inputs, training_pages
from .text_source import TextSource

Split = Literal["train", "eval"]

TOKENS_VERSION = 1
"""Raised by every change that can move a token."""

_POOL = 4
"""Sequences cut for each one wanted, before the choice by hash: more documents share a small sample."""
_TOKENIZER_BATCH = 64


class TokenizerProvider(Protocol):
    """What has a tokenizer and its hash, such as a `LanguageModel`; the tokenizer is read only on a cache miss."""

    @property
    def tokenizer(self) -> Any:
        """A transformers tokenizer."""
        ...

    @property
    def tokenizer_sha256(self) -> str:
        """Hash of the tokenizer's files."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One text."""

    text: str
    sha256: str
    """Of the text."""
    source: str
    """File or data set it came from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedText:
    """Token sequences of one split, each from one document."""

    tokens: np.ndarray
    """[n_seq, seq_len] int32."""
    document: np.ndarray
    """[n_seq] int64: index into `document_hashes`."""
    mask: np.ndarray
    """[n_seq, seq_len] bool: False at special tokens, which are neither trained on nor counted."""
    document_hashes: tuple[str, ...]
    """sha256 of each document's text."""
    fingerprint: str
    """sha256 of the three arrays."""
    inputs: Mapping[str, Any]
    """`token_inputs` these sequences were made from."""

    @property
    def n_tokens(self) -> int:
        """Number of tokens that are not special."""
        return int(self.mask.sum())

    def __len__(self) -> int:
        return self.tokens.shape[0]


def read_documents(source: TextSource) -> Iterator[Document]:
    """The documents of a source, each text once; blank ones are left out.

    A `.txt` file is one document; a line of `.jsonl` is one, either a string or an object with the text field. Of a
    table it is a page of rows that may be trained on.

    Raises:
        DataError: a line is not JSON or has no such field, or the data set or table cannot be read.
    """
    seen: set[str] = set()
    for text, origin in _texts(source):
        if not text.strip():
            continue
        sha256 = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        if sha256 not in seen:
            seen.add(sha256)
            yield Document(text=text, sha256=sha256, source=origin)


def split_of(text_sha256: str, eval_fraction: float) -> Split:
    """Which split a document is in, by its hash alone: adding documents moves no other one."""
    return "eval" if int(text_sha256[:16], 16) < eval_fraction * 2**64 else "train"


def token_inputs(
    config: TextConfig, text_sha256: str, tokenizer_sha256: str, split: Split, *, mix_sha256: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything the tokens of a split depend on; the source's name and the other split's size are not among it.

    Args:
        mix_sha256: content hash of each source of the config's mix, which training alone depends on.

    Raises:
        ConfigError: the config has a mix, and these are not as many.
    """
    mix = mix_inputs(config, mix_sha256)
    return {
        "text": text_sha256,
        "tokenizer": tokenizer_sha256,
        "split": split,
        "seq_len": config.seq_len,
        "prepend_bos": config.prepend_bos,
        "mask_first": config.mask_first,
        "text_field": config.text_field,
        "eval_fraction": config.eval_fraction,
        **(
            {"n_train_tokens": config.n_train_tokens}
            if split == "train"
            else {"n_eval_sequences": config.n_eval_sequences}
        ),
        **({"mix": mix} if mix and split == "train" else {}),
    }


def tokenize(
    config: TextConfig, source: TextSource, tokenizer: TokenizerProvider, split: Split, *, cache: Cache
) -> TokenizedText:
    """The token sequences of one split, from the cache or made now.

    Documents are cut into sequences of `seq_len` tokens (BOS included); no sequence spans two documents, and a tail
    shorter than that is dropped. Sequences are chosen and ordered by hash, so that all sources are mixed: at least
    `n_train_tokens` tokens that are not special, or `n_eval_sequences` sequences.

    Of a mix, each source gives its share of the training tokens, to within a sequence, and sequences of all are in
    one order by hash. None is repeated; a document that two sources have is taken from the first. Held-out sequences
    are of the text itself.

    Raises:
        DataError: a source holds less than was asked for, or the tokenizer has neither BOS nor EOS to prepend.
    """
    inputs = token_inputs(config, source.sha256, tokenizer.tokenizer_sha256, split, mix_sha256=source.mix_sha256)
    folder = cache.get_or_make(
        "tokens", inputs, TOKENS_VERSION, lambda folder: _make(config, source, tokenizer.tokenizer, split, folder)
    )
    return _load(folder, inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sequence:
    order: bytes
    document: str
    tokens: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """How much of a source a split takes."""

    source: TextSource
    n: int
    """Tokens that count, or held-out sequences."""
    share: float
    """Of the training tokens, of a source that is mixed in; 0 for the text itself."""


def _wanted(config: TextConfig, source: TextSource, split: Split) -> list[_Wanted]:
    """The text itself, and for training what is mixed into it."""
    if split == "eval":
        return [_Wanted(source=source, n=config.n_eval_sequences, share=0.0)]
    mixed = [
        _Wanted(source=part, n=max(1, round(entry.share * config.n_train_tokens)), share=entry.share)
        for entry, part in zip(config.mix, source.mix, strict=True)
    ]
    rest = config.n_train_tokens - sum(part.n for part in mixed)
    return [_Wanted(source=source, n=rest, share=0.0), *mixed]


def _make(config: TextConfig, source: TextSource, tokenizer: Any, split: Split, folder: Path) -> None:
    """Tokenize one split into `folder`."""
    special = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int32)
    chosen: list[_Sequence] = []
    for part in _wanted(config, source, split):
        # A document that an earlier source has given is not taken again.
        given = {sequence.document for sequence in chosen}
        cut = (s for s in _cut(config, part.source, tokenizer, split) if s.document not in given)
        chosen += _choose(cut, config, special, part, split)
    chosen.sort(key=lambda s: s.order)
    hashes = sorted({s.document for s in chosen})
    index = {sha256: i for i, sha256 in enumerate(hashes)}
    tokens = np.stack([s.tokens for s in chosen])
    document = np.array([index[s.document] for s in chosen], dtype=np.int64)
    mask = _counted(tokens, special, config.mask_first)
    for name, array in (("tokens", tokens), ("document", document), ("mask", mask)):
        np.save(folder / f"{name}.npy", array)
    fingerprint = _fingerprint(tokens, document, mask)
    (folder / "documents.json").write_text(json.dumps({"fingerprint": fingerprint, "documents": hashes}, indent=0))


def _load(folder: Path, inputs: Mapping[str, Any]) -> TokenizedText:
    about = json.loads((folder / "documents.json").read_text())
    return TokenizedText(
        tokens=np.load(folder / "tokens.npy"),
        document=np.load(folder / "document.npy"),
        mask=np.load(folder / "mask.npy"),
        document_hashes=tuple(about["documents"]),
        fingerprint=about["fingerprint"],
        inputs=dict(inputs),
    )


def _fingerprint(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _cut(config: TextConfig, source: TextSource, tokenizer: Any, split: Split) -> Iterator[_Sequence]:
    """All whole sequences of a split. Files are taken in the order of the documents' hashes; a data set, which may
    be too large to hold, in its own order. Of a table all are for training: what is held out of it is not text."""
    prefix = _bos(tokenizer) if config.prepend_bos else []
    n_cut = config.seq_len - len(prefix)
    if n_cut < 1:
        raise DataError(f"seq_len {config.seq_len} leaves no room for a token beside BOS: use at least 2.")
    documents: Iterable[Document] = (
        d for d in read_documents(source) if source.table or split_of(d.sha256, config.eval_fraction) == split
    )
    if not source.dataset:
        # Other digits than those that decide the split, so that the order is independent of `eval_fraction`.
        documents = sorted(documents, key=lambda d: d.sha256[16:])
    for batch in _batches(documents, _TOKENIZER_BATCH):
        encoded = tokenizer([d.text for d in batch], add_special_tokens=False, verbose=False)["input_ids"]
        for document, ids in zip(batch, encoded, strict=True):
            for number, start in enumerate(range(0, len(ids) - n_cut + 1, n_cut)):
                order = hashlib.sha256(f"{document.sha256}:{number}".encode()).digest()
                tokens = np.array([*prefix, *ids[start : start + n_cut]], dtype=np.int32)
                yield _Sequence(order=order, document=document.sha256, tokens=tokens)


def _choose(
    sequences: Iterator[_Sequence], config: TextConfig, special: np.ndarray, wanted: _Wanted, split: Split
) -> list[_Sequence]:
    """As many sequences as the split needs of a source, in hash order."""
    factor = 1 if wanted.source.dataset else _POOL

    def size(sequence: _Sequence) -> int:
        return int(_counted(sequence.tokens, special, config.mask_first).sum()) if split == "train" else 1

    pool: list[_Sequence] = []
    pooled = 0
    while pooled < factor * wanted.n and (sequence := next(sequences, None)) is not None:
        pool.append(sequence)
        pooled += size(sequence)
    if pooled < wanted.n or not pool:
        raise DataError(_too_small(config, wanted, split, pooled))
    pool.sort(key=lambda s: s.order)
    chosen: list[_Sequence] = []
    taken = 0
    for sequence in pool:
        if taken >= wanted.n:
            break
        chosen.append(sequence)
        taken += size(sequence)
    return chosen


def _too_small(config: TextConfig, wanted: _Wanted, split: Split, found: int) -> str:
    """What there is of a source, what was asked for, and the mend."""
    name = wanted.source.name
    if wanted.share:
        return (
            f"Text {name!r} is too small for its share {wanted.share:g} of the mix: it holds {found} tokens to train "
            f"on in whole sequences of {config.seq_len}, {wanted.n} of n_train_tokens {config.n_train_tokens} are "
            f"asked for. Lower its share to {found / config.n_train_tokens:.3f} or less, lower n_train_tokens or "
            "seq_len, or give more text: none is repeated."
        )
    field, unit = ("n_train_tokens", "tokens") if split == "train" else ("n_eval_sequences", "sequences")
    rest = f" for {wanted.n} of them" if config.mix and split == "train" else f" for {wanted.n}"
    return (
        f"Text {name!r} is too small: its {split} split holds {found} {unit} in whole sequences of "
        f"{config.seq_len} (eval_fraction {config.eval_fraction}), {field} asks{rest}. "
        f"Lower {field} or seq_len, or give more text: documents shorter than a sequence are not used."
    )


def _counted(tokens: np.ndarray, special: np.ndarray, mask_first: int) -> np.ndarray:
    """Bool, of the shape of `tokens` [..., seq_len]: True at tokens that count."""
    return ~np.isin(tokens, special) & (np.arange(tokens.shape[-1]) >= mask_first)


def _bos(tokenizer: Any) -> list[int]:
    """The token each sequence begins with: BOS, or EOS where the tokenizer has no BOS."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if token is None:
        raise DataError("prepend_bos is true, but the tokenizer has neither a BOS nor an EOS token: set it to false.")
    return [token]


def _batches(items: Iterable[Document], size: int) -> Iterator[list[Document]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _texts(source: TextSource) -> Iterator[tuple[str, str]]:
    """(text, where it is from) of each document of a source."""
    if source.table:
        return ((page, source.name) for page in training_pages(source.collections, source.table, source.part))
    if source.dataset:
        return _dataset_texts(source)
    return itertools.chain.from_iterable(map(_file_texts_of(source), source.files))


def _file_texts_of(source: TextSource) -> Any:
    return lambda path: _file_texts(path, source.text_field)


def _file_texts(path: Path, text_field: str) -> Iterator[tuple[str, str]]:
    """(text, file name) of each document of a file."""
    if path.suffix == ".txt":
        yield path.read_text(encoding="utf-8", errors="replace"), path.name
        return
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _line_text(line, text_field, f"{path}, line {number}"), path.name
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"Text file {path} cannot be read: {error}. Replace the file.") from error


def _line_text(line: str, text_field: str, where: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error}). Each line must be a string or an object.") from error
    text = row.get(text_field) if isinstance(row, dict) else row
    if not isinstance(text, str):
        has = f"its fields are {', '.join(row)}" if isinstance(row, dict) else f"it is {type(row).__name__}"
        raise DataError(f"{where}: no string in field {text_field!r}; {has}. Set text.text_field.")
    return text


def _dataset_texts(source: TextSource) -> Iterator[tuple[str, str]]:
    """(text, data set) of each row of the training part of a data set, streamed."""
    import datasets

    try:
        rows = datasets.load_dataset(source.dataset, split="train", streaming=True, revision=source.revision or None)
        for number, row in enumerate(rows):
            yield (
                _line_text(
                    json.dumps({k: v for k, v in row.items() if k == source.text_field}),
                    source.text_field,
                    f"{source.name}, row {number}",
                ),
                source.dataset,
            )
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"Text source {source.name!r} cannot be read ({type(error).__name__}: {error}). "
            "Use a machine with a network, or hub:FOLDER of local files."
        ) from error
