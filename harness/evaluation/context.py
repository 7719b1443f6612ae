"""The EvalContext on a store of held-out activations, with what SAEs share kept in memory and on disk."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..artefacts.cache import Cache
from ..errors import ConfigError, DataError
from ..interfaces.batch import SequenceBatch
from ..interfaces.evaluator import EvalContext, LanguageModelView

SHARED_VERSION = 1
"""Raised by every change here that can move a shared tensor."""

_LOGIT_ELEMENTS = 1 << 23
"""Largest logits tensor of a batch, in numbers (32 MiB in float32): larger ones cost twice the time on a CPU, which
maps and clears fresh pages for each."""
_MAX_BATCH = 64
_MEMO_BYTES = 512 << 20


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
        cache: Cache | None = None,
        device: torch.device | str = "cpu",
        batch_sequences: int | None = None,
        memo_bytes: int = _MEMO_BYTES,
    ) -> None:
        """`data_id` and `lm_sha256` stand for the data and the LM in the keys of shared tensors: the store's own key,
        which covers tokens, hookpoint and dtype, and the hash of the LM's weights. Without a cache, shared tensors
        live in memory. `batch_sequences`: by default as many as keep a batch's logits below 32 MiB.

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
        self._identity = {"data": data_id, "lm": lm_sha256, "hookpoint": hookpoint, "device": self.device.type}
        self._cache = cache
        self._memo = Memo(memo_bytes)
        self._shared: dict[str, dict[str, Tensor]] = {}
        self._scope = ""
        self._code = ""

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
        from safetensors.torch import load_file, save_file

        from ..artefacts.key import artefact_key

        key_inputs = {
            **self._identity,
            "seed": self.seed,
            "evaluator": self._scope,
            "code": self._code,
            "name": name,
            "inputs": dict(inputs),
        }
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

    def memo(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor kept in memory while there is room; made again where there is not."""
        return self._memo.get(f"{self._scope}/{name}", make)


def _default_batch(seq_len: int, language_model: LanguageModelView | None) -> int:
    if language_model is None:
        return _MAX_BATCH
    return max(1, min(_MAX_BATCH, _LOGIT_ELEMENTS // (seq_len * language_model.vocab_size)))
