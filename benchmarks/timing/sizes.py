"""The sizes that are timed, and what a training step costs at least."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Shapes of one benchmark."""

    name: str
    d_in: int
    d_sae: int
    k: int
    batch: int

    def dense_flops(self) -> float:
        """Of a training step by six dense matrix products: forward, and twice that backward."""
        return 12.0 * self.batch * self.d_in * self.d_sae

    def sparse_flops(self, l0: float) -> float:
        """Of a training step whose only dense product is the encoder's: decoding and both weights' gradients (four
        products) touch the active pairs alone."""
        return 2.0 * self.batch * self.d_in * (self.d_sae + 4.0 * l0)

    def encode_flops(self) -> float:
        """Of the encoder's product."""
        return 2.0 * self.batch * self.d_in * self.d_sae

    def replace(self, **changes: Any) -> Size:
        """This size with some numbers changed."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """For a job or the results."""
        return asdict(self)


SIZES = {
    size.name: size
    for size in (
        Size(name="toy", d_in=64, d_sae=512, k=8, batch=256),
        Size(name="A", d_in=512, d_sae=4096, k=32, batch=1024),
        Size(name="B", d_in=768, d_sae=12288, k=32, batch=2048),
        Size(name="C", d_in=2304, d_sae=18432, k=160, batch=512),
    )
}
"""A: an SAE of a small LM; B: one of GPT-2 small, 16 x d_in; C: one of Gemma 2 2B, 8 x d_in."""
