"""Options of `topk_orthogonality`."""

from __future__ import annotations

from dataclasses import dataclass

from harness import ConfigError, Options
from harness.training.pair_penalties import PENALTIES
from harness.training.pairs import CORRELATIONS

_ALLOWED = {
    "pairs": ("selected", "random", "chunked", "gram"),
    "penalty": PENALTIES,
    "target": ("decoder", "encoder", "codes"),
    "scale": ("relative", "absolute"),
    "correlation": CORRELATIONS,
    "fraction_of": ("observed", "all"),
    "clusters": ("none", "louvain", "components"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKOrthogonalityOptions(Options):
    """Options of `topk_orthogonality`; those of the base trainer are given beside them."""

    weight: float = 0.05
    """Weight of the penalty, in the units of `scale`; 0 is the base trainer to the bit."""
    scale: str = "relative"
    """`relative`: the weight is multiplied by R / T0 (see `RelativeScale`); `absolute`: it is taken as it is."""
    penalty: str = "sq"
    """g(c) of a pair's cosine c: `abs` |c| · `sq` c² · `hinge` max(0, |c| - margin)² · `relu2` max(0, c)²."""
    margin: float = 0.1
    """Cosine up to which `hinge` asks nothing."""
    target: str = "decoder"
    """What is drawn to be orthogonal: rows of W_dec, columns of W_enc, or the codes of the batch (each latent's over
    the tokens), as the published code had it."""
    adaptive: bool = False
    """Pairs weigh 1 + correlation instead of 1 each."""
    pairs: str = "selected"
    """`selected`: by correlation · `random`: as many, of latents that fire, drawn at random: the control · `chunked`:
    each row with its nearest in a random chunk (OrtSAE) · `gram`: all pairs, up to 8192 latents."""
    every: int = 1
    """The term is taken at every so many steps."""

    correlation: str = "cos"
    """Of the codes of two latents: `cos`, `phi` (Pearson, of firing), `jaccard`, `dot` (mean product of codes), or
    `cos_times_dec` (cos times |cosine of the decoder rows|)."""
    sample_tokens: int = 256
    """Tokens of a batch from which pairs are listed."""
    per_token: int = 64
    """Of a token, so many of its largest codes are looked at."""
    min_count: int = 3
    """Pairs that fired together on fewer tokens are ignored."""
    minimum: float | None = None
    """Correlations must be above this."""
    maximum: float | None = None
    """Correlations must be below this."""
    quantile_low: float = 0.0
    """Of the correlations left, those from this quantile ..."""
    quantile_high: float = 1.0
    """... to this one are kept."""
    fraction: float = 0.01
    """Of the pairs (see `fraction_of`) so many of the largest correlation are taken."""
    fraction_of: str = "observed"
    """`observed`: of the pairs that fired together on `min_count` tokens; `all`: of all d_sae (d_sae - 1) / 2."""
    max_pairs: int = 65_536
    """At most so many pairs are taken."""
    memory: float = 0.0
    """Share of the statistics that is kept from step to step, as .9; 0 takes each batch by itself."""
    capacity: int = 0
    """Pairs remembered at most; 0 stands for 4 · max_pairs."""
    divide_by_tokens: bool = False
    """Correlations are divided by the number of tokens before they are held against `minimum` and `maximum`: a mistake
    of the published code, after which they select nothing."""

    clusters: str = "none"
    """Latents are clustered by the graph of pairs (see `clusters`), and pairs are selected within and between clusters
    apart: `louvain`, `components`; `none` knows no clusters."""
    within_weight: float = 1.0
    """Share of the pairs within a cluster in the term, beside `between_weight`."""
    between_weight: float = 1.0
    cluster_every: int = 200
    """Clusters are made anew every so many steps."""
    cluster_edges: int = 20_000
    """Pairs of largest correlation that make the graph."""

    chunk: int = 8192
    """Rows in a chunk, for pairs=chunked."""

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            given = getattr(self, name)
            if given not in allowed:
                raise ConfigError(f"topk_orthogonality: option {name} is {given!r}; allowed are {', '.join(allowed)}.")
        for name, is_allowed, range_ in (
            ("weight", self.weight >= 0, "at least 0"),
            ("margin", 0 <= self.margin < 1, "in [0, 1)"),
            ("every", self.every >= 1, "at least 1"),
            ("sample_tokens", self.sample_tokens >= 1, "at least 1"),
            ("per_token", self.per_token >= 2, "at least 2"),
            ("min_count", self.min_count >= 1, "at least 1"),
            ("quantile_low", 0 <= self.quantile_low < self.quantile_high, "in [0, quantile_high)"),
            ("quantile_high", self.quantile_high <= 1, "at most 1"),
            ("fraction", 0 < self.fraction <= 1, "in (0, 1]"),
            ("max_pairs", self.max_pairs >= 1, "at least 1"),
            ("memory", 0 <= self.memory < 1, "in [0, 1)"),
            ("capacity", self.capacity >= 0, "at least 0"),
            ("within_weight", self.within_weight >= 0, "at least 0"),
            ("between_weight", self.between_weight >= 0, "at least 0"),
            ("cluster_every", self.cluster_every >= 1, "at least 1"),
            ("cluster_edges", self.cluster_edges >= 1, "at least 1"),
            ("chunk", self.chunk >= 2, "at least 2"),
        ):
            if not is_allowed:
                raise ConfigError(f"topk_orthogonality: option {name} is {getattr(self, name)}; it must be {range_}.")
        self._refuse_combinations()

    def _refuse_combinations(self) -> None:
        if self.pairs in ("chunked", "gram") and self.target == "codes":
            raise ConfigError(
                f"topk_orthogonality: pairs={self.pairs!r} is for decoder or encoder rows, not target='codes': use "
                "pairs='selected'."
            )
        if self.clusters != "none" and (self.pairs != "selected" or self.within_weight + self.between_weight == 0):
            raise ConfigError(
                "topk_orthogonality: clusters need pairs='selected' and within_weight or between_weight above 0, got "
                f"pairs={self.pairs!r}, {self.within_weight} and {self.between_weight}."
            )
