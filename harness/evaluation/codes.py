"""Codes as their active latents alone: made, decoded, and kept for all evaluators of one SAE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import NonFiniteError
from ..interfaces.codes import dense, n_active, offsets_of, take, token_of_slot
from ..interfaces.sae import SAE, RaggedCodes, SparseCodes

_CODE_ELEMENTS = 1 << 24
"""Dense codes are made in chunks of about this many numbers (64 MiB in float32)."""
_MAX_DENSITY = 1 / 8
"""Share of active latents above which a dense product decodes faster than a sum over decoder rows: on one CPU thread
they meet at 1/8 at 768 x 12,288, and above 1/4 at 192 x 1,536."""
_PROBES = 8
_TOLERANCE = 1e-5
"""Relative to the largest value: float32 sums in another order differ by less, a missing bias or scale by far more."""


@torch.no_grad()
def encode(sae: SAE, rows: Tensor) -> RaggedCodes:
    """Codes of rows [n, d_in]: active latents alone, ascending within a token, values float32.

    Raises:
        NonFiniteError: a code is NaN or infinite.
    """
    if not len(rows):
        none = torch.zeros(1, dtype=torch.int64, device=rows.device)
        return RaggedCodes(none[:0], none, rows.new_zeros(0, dtype=torch.float32))
    if type(sae).encode_sparse is not SAE.encode_sparse:
        found = sae.encode_sparse(rows)
        codes = _of_slots(found) if isinstance(found, SparseCodes) else _of_ragged(found)
    else:
        chunk = max(1, _CODE_ELEMENTS // sae.config.d_sae)
        codes = _joined([_of_dense(sae.encode(part)) for part in rows.split(chunk)])
    if not bool(torch.isfinite(codes.values).all()):
        raise NonFiniteError("NaN or infinite values in the codes.")
    return codes


class Decoder:
    """Decodes sparse codes of one SAE by summing decoder rows, where that gives what the SAE's `decode` gives.

    `SAE.decode` may be any function of dense codes. That it is bias + codes · decoder_directions is not declared, so
    it is tried on some tokens of every call, the largest code among them; once it differs, or where many latents are
    active, `decode` itself is called.
    """

    def __init__(self, sae: SAE, device: torch.device | str = "cpu") -> None:
        self._sae = sae
        self._d_sae = sae.config.d_sae
        self._rows: Tensor | None = None
        with torch.no_grad():
            directions = sae.decoder_directions()
            self._bias = sae.decode(torch.zeros(1, self._d_sae, dtype=directions.dtype, device=device))[0]
        if directions.dtype == torch.float32 and directions.shape == (self._d_sae, len(self._bias)):
            self._rows = directions.detach().to(device).contiguous()

    @torch.no_grad()
    def __call__(self, codes: RaggedCodes) -> Tensor:
        """[n, d_in] float32."""
        n = len(codes.offsets) - 1
        if self._rows is None or len(codes.latents) > _MAX_DENSITY * n * self._d_sae:
            return self._by_product(codes)
        summed = self._by_sum(codes, self._rows)
        if n == 0:
            return summed
        probes = _probes(codes)
        wanted = self._by_product(take(codes, probes))
        if bool(((summed[probes] - wanted).abs() <= _TOLERANCE * wanted.abs().max()).all()):
            return summed
        self._rows = None
        return self._by_product(codes)

    def _by_sum(self, codes: RaggedCodes, rows: Tensor) -> Tensor:
        summed = F.embedding_bag(
            codes.latents, rows, codes.offsets, mode="sum", per_sample_weights=codes.values, include_last_offset=True
        )
        return summed.add_(self._bias)

    def _by_product(self, codes: RaggedCodes) -> Tensor:
        n = len(codes.offsets) - 1
        chunk = max(1, _CODE_ELEMENTS // self._d_sae)
        tokens = torch.arange(n, device=codes.latents.device)
        parts = [
            self._sae.decode(dense(take(codes, part), self._d_sae).to(self._bias.dtype)).float()
            for part in tokens.split(chunk)
        ]
        return torch.cat(parts)


class CodeMemo:
    """The codes of one SAE at a time, batch by batch, up to a number of bytes; the rest is made again each time."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._sae: SAE | None = None
        self._state: tuple[tuple[int, int], ...] = ()
        self._kept: dict[int, RaggedCodes] = {}

    @contextmanager
    def keeping(self, sae: SAE) -> Iterator[None]:
        """Keep the codes of this SAE while open, and let go of them afterwards."""
        self._forget()
        self._sae, self._state = sae, _state(sae)
        try:
            yield
        finally:
            self._forget()
            self._sae = None

    def get(self, sae: SAE, index: int, make: Callable[[], RaggedCodes]) -> RaggedCodes:
        """The codes of batch `index`. Those of another SAE, or made before the weights changed, are never given."""
        if sae is not self._sae:
            return make()
        state = _state(sae)
        if state != self._state:
            self._forget()
            self._state = state
        if index in self._kept:
            kept = self._kept[index]
            return RaggedCodes(kept.latents.long(), kept.offsets, kept.values)
        codes = make()
        small = RaggedCodes(codes.latents.int(), codes.offsets, codes.values)
        size = sum(tensor.nelement() * tensor.element_size() for tensor in small)
        if self.used_bytes + size <= self.max_bytes:
            self._kept[index] = small
            self.used_bytes += size
        return codes

    def _forget(self) -> None:
        self._kept.clear()
        self.used_bytes = 0


def _state(sae: SAE) -> tuple[tuple[int, int], ...]:
    """Changes when a parameter or buffer is replaced or written to."""
    return tuple((id(tensor), tensor._version) for tensor in chain(sae.parameters(), sae.buffers()))


def _probes(codes: RaggedCodes) -> Tensor:
    """[m] int64: tokens spread over all, and that of the largest code."""
    n = len(codes.offsets) - 1
    device = codes.latents.device
    spread = torch.arange(0, n, max(1, n // _PROBES), device=device)[:_PROBES]
    if not len(codes.values):
        return spread
    largest = torch.searchsorted(codes.offsets, codes.values.abs().argmax(), right=True) - 1
    return torch.cat([spread, largest.view(1)])


def _of_dense(codes: Tensor) -> RaggedCodes:
    """Of dense codes [n, d_sae]."""
    d_sae = codes.shape[1]
    flat = codes.reshape(-1)
    cells = flat.nonzero().squeeze(1)
    tokens = cells // d_sae
    offsets = offsets_of(torch.bincount(tokens, minlength=len(codes)))
    return RaggedCodes(cells - tokens * d_sae, offsets, flat[cells].float())


def _of_slots(codes: SparseCodes) -> RaggedCodes:
    """Of k slots a token, in any order, some of them unused."""
    latents, order = codes.indices.sort(dim=1)
    values = codes.values.gather(1, order).float()
    used = values != 0
    counts = used.sum(1)
    return RaggedCodes(latents[used], offsets_of(counts), values[used])


def _of_ragged(codes: RaggedCodes) -> RaggedCodes:
    """Of slots in any order, some of them unused."""
    tokens = token_of_slot(codes)
    width = int(codes.latents.max()) + 1 if len(codes.latents) else 1
    cells = tokens * width + codes.latents
    if not bool((cells[1:] > cells[:-1]).all()):
        order = cells.argsort()
        codes = RaggedCodes(codes.latents[order], codes.offsets, codes.values[order])
    used = codes.values != 0
    if not bool(used.all()):
        counts = torch.bincount(tokens[used], minlength=len(codes.offsets) - 1)
        codes = RaggedCodes(codes.latents[used], offsets_of(counts), codes.values[used])
    return RaggedCodes(codes.latents, codes.offsets, codes.values.float())


def _joined(parts: list[RaggedCodes]) -> RaggedCodes:
    if len(parts) == 1:
        return parts[0]
    lengths = torch.cat([n_active(part) for part in parts])
    return RaggedCodes(
        torch.cat([part.latents for part in parts]), offsets_of(lengths), torch.cat([part.values for part in parts])
    )
