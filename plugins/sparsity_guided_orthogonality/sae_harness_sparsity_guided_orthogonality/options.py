"""Options of `sparsity_guided_orthogonality`."""

from __future__ import annotations

from dataclasses import dataclass

from harness import ConfigError, Options
from harness.training.pair_penalties import PENALTIES
from harness.training.pairs import COMPETITIONS

_ALLOWED = {
    "competition": COMPETITIONS,
    "threshold_kind": ("relu", "hard", "top"),
    "normalise": ("by_c", "by_pairs", "none"),
    "penalty": PENALTIES,
    "target": ("decoder", "encoder", "codes", "codes_gram"),
    "scale": ("relative", "absolute"),
    "partners": ("true", "random"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsityGuidedOptions(Options):
    """Options of `sparsity_guided_orthogonality`; those of the base trainer are given beside them."""

    weight: float = 0.02
    """Weight of the penalty, in the units of `scale`; 0 is the base trainer to the bit."""
    scale: str = "relative"
    """`relative`: the weight is multiplied by R / T0 (see `RelativeScale`); `absolute`: it is taken as it is."""
    competition: str = "ochiai"
    """c_ij of n_ij tokens on which both fire, n_i and n_j on which each does: `min` n_ij / min(n_i, n_j) · `jaccard`
    n_ij / (n_i + n_j - n_ij) · `ochiai` n_ij / sqrt(n_i n_j) · `lift` n_ij tokens / (n_i n_j) - 1, in [0, 1] ·
    `shrunk` n_ij / (min(n_i, n_j) + shrink)."""
    shrink: float = 10.0
    """Of `shrunk`: a latent seen once then has c = 1 / 11, not 1."""
    threshold: float = 0.1
    """c up to which a pair has no part (with threshold_kind=top: the share of the pairs, by c, that has)."""
    threshold_kind: str = "relu"
    """`relu`: w = max(0, c - threshold) · `hard`: w = c above it · `top`: w = c for the share `threshold` of the
    pairs."""
    normalise: str = "by_c"
    """The sum of w g is divided by: `by_c` the sum of w, which forgets how much competition there is · `by_pairs` the
    number of pairs · `none` nothing."""
    penalty: str = "abs"
    """g(c) of a pair's cosine: `abs` |c| · `sq` c² · `hinge` max(0, |c| - margin)² · `relu2` max(0, c)²."""
    margin: float = 0.1
    """Cosine up to which `hinge` asks nothing."""
    target: str = "decoder"
    """What is drawn to be orthogonal: rows of W_dec, columns of W_enc, `codes` (cosines of the codes over the tokens)
    or `codes_gram` (f^T f / tokens, not normalised, as the published code had it)."""
    partners: str = "true"
    """`random`: the same weights on as many random pairs of latents that fire. The control."""
    sample_tokens: int = 256
    """Tokens of a batch from which pairs are listed."""
    per_token: int = 64
    """Of a token, so many of its largest codes are looked at."""
    min_count: int = 3
    """Pairs that fired together on fewer tokens have no part."""
    max_pairs: int = 65_536
    """At most so many pairs, those of largest w, have part."""
    memory: float = 0.9
    """Share of the statistics that is kept from step to step; .9 averages over about ten batches, 0 over one."""
    capacity: int = 0
    """Pairs remembered at most; 0 stands for 4 · max_pairs."""
    every: int = 1
    """The term is taken at every so many steps."""

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            given = getattr(self, name)
            if given not in allowed:
                raise ConfigError(
                    f"sparsity_guided_orthogonality: option {name} is {given!r}; allowed are {', '.join(allowed)}."
                )
        for name, is_allowed, range_ in (
            ("weight", self.weight >= 0, "at least 0"),
            ("shrink", self.shrink >= 0, "at least 0"),
            ("threshold", 0 <= self.threshold <= 1, "in [0, 1]"),
            ("margin", 0 <= self.margin < 1, "in [0, 1)"),
            ("sample_tokens", self.sample_tokens >= 1, "at least 1"),
            ("per_token", self.per_token >= 2, "at least 2"),
            ("min_count", self.min_count >= 1, "at least 1"),
            ("max_pairs", self.max_pairs >= 1, "at least 1"),
            ("memory", 0 <= self.memory < 1, "in [0, 1)"),
            ("capacity", self.capacity >= 0, "at least 0"),
            ("every", self.every >= 1, "at least 1"),
        ):
            if not is_allowed:
                raise ConfigError(
                    f"sparsity_guided_orthogonality: option {name} is {getattr(self, name)}; it must be {range_}."
                )
        if self.threshold_kind == "top" and self.threshold == 0:
            raise ConfigError(
                "sparsity_guided_orthogonality: threshold_kind='top' with threshold 0 takes no pair: give the share of "
                "pairs to take, in (0, 1]."
            )
