"""The options of `temporal`, and what each may be."""

from __future__ import annotations

from dataclasses import dataclass

from harness import ConfigError, Options

ALLOWED = {
    "penalty": ("rel", "abs", "l2", "sq", "xsim", "nce"),
    "similarity": ("cosine", "dot"),
    "scale": ("relative", "absolute"),
    "adaptive": ("sigmoid", "const", "relative"),
    "tracker": ("max_decay", "ema", "window_max"),
    "gap": ("sd", "none"),
    "start": ("drop", "zero"),
    "stop_grad": ("none", "prev", "both_alternating"),
    "partner": ("previous", "shuffled", "earlier", "batch_row"),
    "reconstruction": ("sse", "l2norm"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporalOptions(Options):
    """Options of `temporal`; those of the base trainer are given beside them."""

    penalty: str = "rel"
    """Mean over V, the tokens with a true previous token of the same document, of: `rel`
    sum|f_t - f_p| / (0.5 (||f_t||_1 + ||f_p||_1)), in [0, 2]; `abs` its numerator alone, which shrinking the codes
    lowers too; `l2` ||f_t - f_p||_2; `sq` its square; `xsim` sum|f_t - f_p| · max(0, cos(x_t, x_p)); `nce` symmetric
    InfoNCE of the pairs (f_t, f_p)."""
    share: float = 1.0
    """Share h of the latents that the penalty sees: the first h · d_sae."""
    similarity: str = "cosine"
    """Of `nce`: logits are `cosine`s / temperature, or `dot` products."""
    temperature: float = 0.1
    """Of `nce` with cosines."""
    strength: float = 0.05
    """Weight of the penalty, in the units of `scale`; 0 is the base trainer to the bit."""
    scale: str = "relative"
    """`relative`: the weight is multiplied by R / R_T0 (see `RelativeScale`); `absolute`: it is taken as it is."""
    adaptive: str = "sigmoid"
    """`sigmoid`: multiplied by alpha = sigmoid(beta (M - R) / s) (see `AdaptiveFactor`); `relative`: by
    1 + rho · max(0, 1 - R / R_0) (see `RelativeImprovement`); `const`: alpha = 1."""
    beta: float = 5.0
    """Steepness of the sigmoid, per standard deviation of R."""
    momentum: float = 0.99
    """Memory of M and of the standard deviation, per step."""
    tracker: str = "max_decay"
    """M: `max_decay` the true moving maximum max(R, mu M + (1 - mu) R); `window_max` the maximum of the last `window`
    losses; `ema` their exponential average, which is no maximum (as the notebook had it)."""
    window: int = 100
    """Steps of `window_max`."""
    gap: str = "sd"
    """s: `sd` the running standard deviation, which makes the sigmoid's argument dimensionless; `none` 1, with which
    alpha is a step function where losses are large (as the notebook had it)."""
    alpha_momentum: float = 0.0
    """Memory of an exponential average of alpha, per step; 0 takes alpha as it comes."""
    rho: float = 1.0
    """Of `relative`: how much a loss improved to 0 adds."""
    reference_start: int = 25
    """Of `relative`: the first step of which R_0 is the mean."""
    reference_steps: int = 100
    """Of `relative`: the number of those steps; alpha is 1 until they are over."""
    start: str = "drop"
    """Tokens without a previous one: `drop` leaves them out, `zero` measures them against the empty code in a term
    of its own, `temporal_start`. That is an L1 penalty for `abs`, and the constant 2 for `rel`."""
    stop_grad: str = "none"
    """`none`: the penalty moves the codes of both tokens; `prev`: the previous token's code is a fixed target;
    `both_alternating`: at even steps the previous token's code is, at odd steps the current token's."""
    partner: str = "previous"
    """`shuffled`: the previous token of another row of the batch, the mandatory control; `earlier`: a random earlier
    token of the sequence (`temporal_contiguous` alone); `batch_row`: the row of the same number of the previous batch,
    an unrelated token (the notebook's mistake)."""
    detach: bool = True
    """False lets gradients through alpha: the optimiser is then paid to worsen R (the notebook's mistake)."""
    reconstruction: str = "sse"
    """`l2norm`: the mean of ||x - x̂||_2 takes the place of the base's SSE (as the notebook had it)."""
    l1: float = 0.0
    """Fixed weight of the base's L1 term in place of the sparsity controller's: L0 is then what it comes to. 0 leaves
    it to the controller."""
    position_weights: float = 0.0
    """Exponent g of the weights clip((L_p / mean L)^g, .5, 2) of each position's squared error; 0 is off."""
    prune: float = 0.0
    """Weight that an L1 penalty on unimportant latents reaches at the end of training, from a quarter; 0 is off."""
    prune_quantile: float = 0.1
    """Share of the latents below the importance at which the penalty acts half."""
    resample_every: int = 0
    """Steps between resamplings of dead latents; 0 is off."""
    resample_share: float = 0.1
    """Largest share of the latents that one resampling replaces."""

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"temporal: option {name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}."
                )
        for name, is_allowed, range_ in (
            ("strength", self.strength >= 0, "at least 0"),
            ("beta", self.beta > 0, "above 0"),
            ("temperature", self.temperature > 0, "above 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("alpha_momentum", 0 <= self.alpha_momentum < 1, "in [0, 1)"),
            ("share", 0 < self.share <= 1, "in (0, 1]"),
            ("window", self.window >= 1, "at least 1"),
            ("rho", self.rho >= 0, "at least 0"),
            ("reference_start", self.reference_start >= 0, "at least 0"),
            ("reference_steps", self.reference_steps >= 1, "at least 1"),
            ("l1", self.l1 >= 0, "at least 0"),
            ("position_weights", self.position_weights >= 0, "at least 0"),
            ("prune", self.prune >= 0, "at least 0"),
            ("prune_quantile", 0 < self.prune_quantile < 1, "in (0, 1)"),
            ("resample_every", self.resample_every >= 0, "at least 0"),
            ("resample_share", 0 < self.resample_share <= 1, "in (0, 1]"),
        ):
            if not is_allowed:
                raise ConfigError(f"temporal: option {name} is {getattr(self, name)}; it must be {range_}.")
        if self.start == "zero" and self.penalty == "nce":
            raise ConfigError("temporal: start='zero' has no meaning for penalty='nce'; it must be 'drop'.")
        if not self.detach and self.adaptive != "sigmoid":
            raise ConfigError("temporal: detach=False is the notebook's mistake with adaptive='sigmoid' alone.")

    @property
    def is_off(self) -> bool:
        """Whether nothing is added to the base, to the bit."""
        modules = (self.position_weights, self.prune, self.resample_every, self.l1)
        return self.strength == 0.0 and self.reconstruction == "sse" and not any(modules)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContiguousOptions(TemporalOptions):
    """Options of `temporal_contiguous`."""

    lag: int = 1
    """How many tokens before the current one its partner stands."""

    def __post_init__(self) -> None:
        # Not super(): a dataclass with slots is made anew, and the cell of super() names the class before.
        TemporalOptions.__post_init__(self)
        if self.lag < 1:
            raise ConfigError(f"temporal_contiguous: option lag is {self.lag}; it must be at least 1.")
