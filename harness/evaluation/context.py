"""The EvalContext on a store of held-out activations, with what SAEs share kept in memory and on disk."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..artefacts.cache import Cache
from ..artefacts.key import artefact_key, source_sha256
from ..errors import ConfigError, DataError, ShapeError
from ..interfaces.batch import SequenceBatch
from ..interfaces.evaluator import EncodedBatch, EvalContext, LanguageModelView, NextTokenLosses
from ..interfaces.labelled import Sample, Sizes
from ..interfaces.prompts import PromptBatch
from ..interfaces.sae import SAE, RaggedCodes
from ..interfaces.texts import TextBatch
from ..interfaces.truth import WorldTruth
from .codes import CodeMemo, Decoder, encode
from .predictions import predicting_positions
from .prompts import prompt_logits, prompt_logprobs
from .readout import CleanTable, HeadReadout, LogitReadout, Readout

SHARED_VERSION = 1
"""Raised by every change here that can move a shared tensor."""

HARNESS_CODE = ("evaluation", "activations", "interfaces")
"""Our own code that shared tensors rest on."""

_BATCH_TOKENS = 2048
_LOGIT_ELEMENTS = 1 << 27
"""Largest logits tensor of a batch, in numbers (512 MiB in float32), for evaluators that ask the LM for all logits."""
_MEMO_BYTES = 512 << 20
_CODE_BYTES = 256 << 20


class HeldOutStore(Protocol):
    """The part of an ActivationStore that evaluation reads."""

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        ...

    @property
    def tokens(self) -> Tensor:
        """[n, s] integer token ids."""
        ...

    @property
    def mask(self) -> Tensor:
        """[n, s] bool: False at special tokens and padding."""
        ...

    @property
    def document(self) -> Tensor:
        """[n] integer: the document each sequence was cut from."""
        ...

    def sequences(self, start: int, stop: int) -> Tensor:
        """[stop - start, s, d_in] float32, unscaled."""
        ...


class TextSource(Protocol):
    """The part of `TextData` that evaluation reads."""

    def missing(self, collections: Iterable[str]) -> str:
        """Why these collections cannot be read, with the mend; empty where they can."""
        ...

    def samples(self, collection: str, sizes: Sizes, seed: int) -> tuple[Sample, ...]:
        """What probes see of each task."""
        ...

    def activations(self, texts: Sequence[str], *, max_tokens: int, last_tokens: int) -> Iterator[TextBatch]:
        """Activations of texts."""
        ...

    def table(self, name: str) -> tuple[Mapping[str, Any], ...]:
        """The rows of a table."""
        ...

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts."""
        ...

    def prompt_batches(self, prompts: Sequence[Sequence[str]], max_tokens: int | None) -> Iterator[PromptBatch]:
        """Prompts with their activations."""
        ...


class Memo:
    """Tensors kept in memory up to a number of bytes; what does not fit is made again each time."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._kept: dict[str, Tensor] = {}

    def get(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """The tensor of that name; not to be edited by the caller."""
        if name in self._kept:
            return self._kept[name]
        value = make()
        size = value.nelement() * value.element_size()
        if self.used_bytes + size <= self.max_bytes:
            self._kept[name] = value
            self.used_bytes += size
        return value


class StoreEvalContext(EvalContext):
    """Held-out sequences of a store, the LM they came from, and what the SAEs of a suite share.

    Use one context for all SAEs evaluated on the same data: what it keeps in memory is then made once.
    """

    def __init__(
        self,
        store: HeldOutStore,
        *,
        hookpoint: str,
        data_id: str,
        seed: int,
        language_model: LanguageModelView | None = None,
        lm_sha256: str = "",
        texts: TextSource | None = None,
        truth: WorldTruth | None = None,
        cache: Cache | None = None,
        device: torch.device | str = "cpu",
        batch_sequences: int | None = None,
        memo_bytes: int = _MEMO_BYTES,
        code_bytes: int = _CODE_BYTES,
    ) -> None:
        """`data_id` and `lm_sha256` stand for the data and the LM in the keys of shared tensors: the store's own key,
        which covers tokens, hookpoint and dtype, and the hash of the LM's weights. Without a cache, shared tensors
        live in memory. `truth`: what is known of the data of a world; by default what the store says (`store.truth`).
        `batch_sequences`: by default as many as make 2048 tokens and keep a batch's logits below
        512 MiB. `memo_bytes` and `code_bytes` bound what `memo` and `encoded` keep in memory.

        Raises:
            DataError: the store holds no sequences or no counted tokens.
            ConfigError: `batch_sequences` is not positive, or there is an LM without `lm_sha256`.
        """
        if language_model is not None and not lm_sha256:
            raise ConfigError("A context with an LM needs lm_sha256: shared tensors are addressed by it.")
        if batch_sequences is not None and batch_sequences < 1:
            raise ConfigError(f"batch_sequences must be at least 1, got {batch_sequences}.")
        n, seq_len = store.tokens.shape
        if n == 0 or not bool(torch.as_tensor(store.mask).any()):
            raise DataError(f"The held-out store has {n} sequences and no token that counts: capture more text.")
        self.hookpoint = hookpoint
        self.d_in = store.d_in
        self.device = torch.device(device)
        self.seed = seed
        self.n_sequences = n
        self.batch_sequences = batch_sequences or _default_batch(seq_len, language_model)
        self._store = store
        self._lm = language_model
        self._texts = texts
        self._truth: WorldTruth | None = getattr(store, "truth", None) if truth is None else truth
        self._identity = {"data": data_id, "lm": lm_sha256, "hookpoint": hookpoint, "device": self.device.type}
        self._cache = cache
        # Held by reference: the views of `scoped` share them.
        self._memo = Memo(memo_bytes)
        self._codes = CodeMemo(code_bytes)
        self._shared: dict[str, dict[str, Tensor]] = {}
        self._readouts: list[Readout] = []
        self._scope = ""
        self._code = ""
        self._twin: SAE | None = None

    @property
    def has_language_model(self) -> bool:
        """Whether evaluators that need the LM can run."""
        return self._lm is not None

    @property
    def language_model(self) -> LanguageModelView:
        """The LM. Raises DataError where there is none."""
        if self._lm is None:
            raise DataError(
                "There is no language model here: an evaluator that uses it must declare needs={'language_model'}."
            )
        return self._lm

    @property
    def has_truth(self) -> bool:
        """Whether evaluators that need a world can run."""
        return self._truth is not None

    @property
    def truth(self) -> WorldTruth:
        """What is known of the held-out data. Raises DataError where they come from no world."""
        return super().truth if self._truth is None else self._truth

    @property
    def has_twin(self) -> bool:
        """Whether evaluators that need an SAE of another seed can run."""
        return self._twin is not None

    @property
    def twin(self) -> SAE:
        """The SAE of another seed. Raises DataError where there is none."""
        return super().twin if self._twin is None else self._twin

    def beside(self, twin: SAE | None) -> StoreEvalContext:
        """This context for an SAE with this twin."""
        view = copy.copy(self)
        view._twin = twin
        return view

    def missing_texts(self, collections: Iterable[str]) -> str:
        """Why these collections of labelled texts cannot be read, with the mend; empty where they can."""
        wanted = tuple(collections)
        if not wanted:
            return ""
        return f"needs the labelled texts {', '.join(wanted)}" if self._texts is None else self._texts.missing(wanted)

    def labelled_samples(self, collection: str, sizes: Sizes) -> tuple[Sample, ...]:
        """The binary tasks of a collection."""
        return self._text_source().samples(collection, sizes, self.seed)

    def text_activations(self, texts: Sequence[str], *, max_tokens: int, last_tokens: int) -> Iterator[TextBatch]:
        """The LM's activations of texts, on the context's device."""
        for part in self._text_source().activations(texts, max_tokens=max_tokens, last_tokens=last_tokens):
            yield TextBatch(rows=part.rows.to(self.device), text=part.text.to(self.device))

    def table(self, name: str) -> tuple[Mapping[str, Any], ...]:
        """The rows of a fetched table."""
        return self._text_source().table(name)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The LM's token ids of each text."""
        return self._text_source().token_ids(texts)

    def token_text(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself. Raises DataError where the LM has no tokenizer."""
        tokenizer = getattr(self._lm, "tokenizer", None)
        if tokenizer is None:
            return super().token_text(ids)
        pieces = tokenizer.convert_ids_to_tokens(list(ids))
        texts = [tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in ids]
        # Tokenizers of SentencePiece's kind take the space off what they think begins a text.
        return [
            f" {text}" if str(piece).startswith("\u2581") and not text.startswith(" ") else text
            for piece, text in zip(pieces, texts, strict=True)
        ]

    def prompt_batches(
        self, prompts: Sequence[Sequence[str]], *, max_tokens: int | None = None
    ) -> Iterator[PromptBatch]:
        """The prompts with the LM's activations, on the context's device."""
        for batch in self._text_source().prompt_batches(prompts, max_tokens):
            yield PromptBatch(
                index=batch.index,
                tokens=batch.tokens.to(self.device),
                part=batch.part.to(self.device),
                activations=batch.activations.to(self.device),
            )

    def prompt_logprobs(self, batch: PromptBatch, activations: Tensor) -> Tensor:
        """Log-probabilities of the prompts' own tokens."""
        return prompt_logprobs(self.language_model, self.hookpoint, batch, activations)

    def prompt_logits(self, batch: PromptBatch, activations: Tensor, positions: Tensor) -> Tensor:
        """Logits for what follows one token of each prompt."""
        return prompt_logits(self.language_model, self.hookpoint, batch, activations, positions)

    def _text_source(self) -> TextSource:
        if self._texts is None:
            raise DataError("There are no labelled texts here: an evaluator that reads some must declare texts=(...).")
        return self._texts

    def scoped(self, evaluator: str, code_sha256: str) -> StoreEvalContext:
        """This context as one evaluator sees it: its shared and memoised tensors are its own, and the shared ones are
        made anew when its code changes. Data and memory are the same."""
        view = copy.copy(self)
        view._scope = evaluator
        view._code = code_sha256
        return view

    def batches(self) -> Iterator[SequenceBatch]:
        """The held-out sequences in the order of the store."""
        for start in range(0, self.n_sequences, self.batch_sequences):
            stop = min(start + self.batch_sequences, self.n_sequences)
            here = slice(start, stop)
            yield SequenceBatch(
                tokens=torch.as_tensor(self._store.tokens[here]).to(self.device, torch.int64),
                activations=torch.as_tensor(self._store.sequences(start, stop)).to(self.device, torch.float32),
                mask=torch.as_tensor(self._store.mask[here]).to(self.device, torch.bool),
                document=torch.as_tensor(self._store.document[here]).to(self.device, torch.int64),
            )

    def keeping_codes(self, sae: SAE) -> AbstractContextManager[None]:
        """While open, `encoded` makes the codes of this SAE once; afterwards they are let go of."""
        return self._codes.keeping(sae)

    def encoded(self, sae: SAE) -> Iterator[EncodedBatch]:
        """The batches with the codes of their counted tokens."""
        decode = Decoder(sae, self.device)
        for index, batch in enumerate(self.batches()):
            rows = batch.rows()
            yield EncodedBatch(
                batch=batch,
                rows=rows,
                document=batch.document[:, None].expand_as(batch.mask)[batch.mask],
                codes=self._codes.get(sae, index, partial(encode, sae, rows)),
                decode=decode,
            )

    def encode(self, sae: SAE, rows: Tensor) -> RaggedCodes:
        """Codes of other activations."""
        return encode(sae, rows)

    def next_token_losses(self, replacements: Iterable[Tensor]) -> Iterator[NextTokenLosses]:
        """The LM's losses with each batch's replacement."""
        readout = self._readout()
        given = iter(replacements)
        for index, batch in enumerate(self.batches()):
            activations = next(given, None)
            if activations is None:
                raise DataError(f"next_token_losses got {index} replacements for more batches: give one a batch.")
            if activations.shape != batch.activations.shape:
                raise ShapeError(
                    f"A replacement must have the shape of its batch's activations {tuple(batch.activations.shape)}, "
                    f"got {tuple(activations.shape)}."
                )
            yield readout.losses(index, batch, activations)

    def clean_losses(self) -> NextTokenLosses:
        """The LM's losses when nothing is replaced."""
        return self._reference("clean", self._clean_parts)

    def ablated_losses(self) -> NextTokenLosses:
        """The LM's losses when the activations of counted tokens are 0."""

        def ablated() -> Iterator[NextTokenLosses]:
            zeroed = (batch.activations.masked_fill(batch.mask[..., None], 0.0) for batch in self.batches())
            return self.next_token_losses(zeroed)

        return self._reference("ablated", ablated)

    def _clean_parts(self) -> Iterator[NextTokenLosses]:
        readout = self._readout()
        return (readout.clean(index, batch) for index, batch in enumerate(self.batches()))

    def _reference(self, name: str, make: Callable[[], Iterable[NextTokenLosses]]) -> NextTokenLosses:
        """Losses that no SAE, evaluator or seed changes: addressed by the LM, the data and the harness's code."""

        def tensors() -> dict[str, Tensor]:
            losses = NextTokenLosses.cat(make())
            return {"document": losses.document, "ce": losses.ce, "kl": losses.kl}

        inputs = {**self._identity, "code": _harness_code(), "losses": name}
        return NextTokenLosses(**self._stored(inputs, tensors))

    def _readout(self) -> Readout:
        """How losses are made with this LM, with what that keeps of the clean predictions; made on first use."""
        if not self._readouts:
            lm = self.language_model
            first = next(self.batches(), None)
            fast = None if first is None else HeadReadout.of(lm, self.hookpoint, first.tokens[:1])
            if fast is None:
                self._readouts.append(LogitReadout(lm, self.hookpoint, self._memo.get))
            else:
                fast.use(self._clean_table(fast))
                self._readouts.append(fast)
        return self._readouts[0]

    def _clean_table(self, readout: HeadReadout) -> CleanTable:
        counted = [int(predicting_positions(batch.mask).sum()) for batch in self.batches()]
        ends = torch.tensor(counted).cumsum(0).tolist()
        n, d = ends[-1], readout.width
        parts = readout.make_clean(self.batches())
        if self._cache is None or n == 0:
            return CleanTable.hold(n, d, parts, ends, self.device)
        inputs = {**self._identity, "code": _harness_code(), "form": "clean predictions"}
        folder = self._cache.get_or_make(
            "shared",
            inputs,
            SHARED_VERSION,
            lambda folder: CleanTable.write(folder, n, d, parts),
            estimate_bytes=4 * n * d,
        )
        return CleanTable.open(folder, ends, self.device)

    def generator(self, purpose: str) -> torch.Generator:
        """A fresh CPU generator of (seed, purpose), so that its numbers are the same on every device."""
        digest = hashlib.sha256(f"{self.seed}:{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def shared(self, name: str, inputs: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors that do not depend on the SAE: from memory, else from the cache, else made and stored.

        Raises:
            CacheError: the cache cannot be written.
            ConfigError: `inputs` are not plain values.
        """
        own = {"seed": self.seed, "evaluator": self._scope, "code": self._code, "name": name, "inputs": dict(inputs)}
        return self._stored({**self._identity, **own}, make)

    def _stored(self, key_inputs: dict[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        from safetensors.torch import load_file, save_file

        key = artefact_key("shared", key_inputs, SHARED_VERSION)
        if key not in self._shared:
            if self._cache is None:
                tensors = make()
            else:

                def write(folder: Path) -> None:
                    made = {n: t.detach().cpu().contiguous() for n, t in make().items()}
                    save_file(made, folder / "tensors.safetensors")

                folder = self._cache.get_or_make("shared", key_inputs, SHARED_VERSION, write)
                tensors = load_file(folder / "tensors.safetensors")
            self._shared[key] = {n: t.to(self.device) for n, t in tensors.items()}
        return dict(self._shared[key])

    def judge(self, make: Callable[[Path | None], Any]) -> Any:
        """The judge that `make` gives; its replies are kept beside the cache."""
        return make(None if self._cache is None else self._cache.root / "judge")

    def memo(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor kept in memory while there is room; made again where there is not."""
        return self._memo.get(f"{self._scope}/{name}", make)


@lru_cache(maxsize=1)
def _harness_code() -> str:
    return source_sha256(__name__, only=HARNESS_CODE)


def _default_batch(seq_len: int, language_model: LanguageModelView | None) -> int:
    sequences = _BATCH_TOKENS // seq_len
    if language_model is not None:
        sequences = min(sequences, _LOGIT_ELEMENTS // (seq_len * language_model.vocab_size))
    return max(1, sequences)
