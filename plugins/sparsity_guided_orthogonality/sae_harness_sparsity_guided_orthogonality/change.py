"""The analysis `competition_change`: do the latents of an SAE compete less than those of another, or do only their rows
point further apart?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness import (
    SAE,
    Analysis,
    AnalysisResult,
    Bars,
    DataError,
    EvalContext,
    Figure,
    Histogram,
    NotEvaluatedError,
    Panel,
    Scatter,
    TrainingLog,
)
from harness.training.code_distance import n_tokens
from harness.training.pair_penalties import pair_cosines
from harness.training.pairs import Codes, pair_statistics

from .analyses import Edges, edges, frequency_null
from .counting import Counting, mean_and_spread, statistics
from .held_out import codes_on, competition_options, histogram, numbers, sample

N_NULLS = 3
_C_EDGES = [i / 25 for i in range(26)]
_COSINES = [i / 25 for i in range(26)]
_SHOWN = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Competing:
    """The competing pairs of one SAE on some tokens."""

    pairs: Edges
    cosine: Tensor
    """[p] of their decoder rows."""
    null_totals: tuple[float, ...]
    """The sum of c where the tokens of each latent are drawn anew: what follows from how often latents fire."""

    @property
    def total(self) -> float:
        """The sum of c."""
        return float(self.pairs.c.sum())

    @property
    def excess(self) -> float:
        """The sum of c above its null."""
        return self.total - sum(self.null_totals) / len(self.null_totals)

    @property
    def weighed_cosine(self) -> float:
        """Mean |cosine| weighed by c; NaN without pairs."""
        return float((self.pairs.c * self.cosine.abs()).sum() / self.pairs.c.sum()) if len(self.cosine) else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class CompetitionChange:
    """Does a penalty lower how much latents fire together, or only turn their rows apart?"""

    before: Competing
    """Of the SAE without the penalty, or at the start."""
    after: Competing

    @property
    def overlap_ratio(self) -> float:
        """Sum of c above its null, after over before: 1 where rows turned, nothing else; NaN where there was none."""
        return self.after.excess / self.before.excess if self.before.excess > 0 else math.nan


def change_of_competition(
    codes: tuple[Codes, Codes],
    W_dec: tuple[Tensor, Tensor],
    *,
    kind: str = "ochiai",
    threshold: float = 0.1,
    min_count: float = 3.0,
    shrink: float = 10.0,
    per_token: int = 64,
    n_nulls: int = 1,
    seed: int = 0,
) -> CompetitionChange:
    """Competition of two SAEs on the same tokens: their codes and decoders, the reference first.

    Raises:
        DataError: the codes are of different numbers of tokens.
    """
    lengths = [len(c) if isinstance(c, Tensor) else n_tokens(c) for c in codes]
    if lengths[0] != lengths[1]:
        raise DataError(f"Competition is compared on the same tokens, got codes of {lengths[0]} and {lengths[1]}.")
    found = []
    for one, W in zip(codes, W_dec, strict=True):
        generator = torch.Generator().manual_seed(seed)
        own = pair_statistics(one, len(W), n_tokens=lengths[0], per_token=per_token)
        chosen = edges(own, kind=kind, threshold=threshold, min_count=min_count, shrink=shrink)
        nulls = (
            edges(
                frequency_null(one, len(W), per_token=per_token, generator=generator),
                kind=kind,
                threshold=threshold,
                min_count=min_count,
                shrink=shrink,
            )
            for _ in range(n_nulls)
        )
        found.append(
            Competing(
                pairs=chosen,
                cosine=pair_cosines(W.detach(), chosen.first, chosen.second),
                null_totals=tuple(float(null.c.sum()) for null in nulls),
            )
        )
    return CompetitionChange(before=found[0], after=found[1])


class CompetitionChangeAnalysis(Analysis):
    """Sum of c beyond chance, and cosines of competing pairs, of this SAE and of the reference, on the same tokens."""

    compares = True

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        if self.reference is None:
            raise NotEvaluatedError("competition_change holds two SAEs against each other: give it a reference.")
        options, note = competition_options(training)
        tokens = sample(sae, context, options.per_token)
        theirs, other = codes_on(self.reference.sae, context, tokens), self.reference.sae
        threshold = Counting.of(options, statistics(theirs, other, options)).threshold
        found = change_of_competition(
            (theirs, tokens.codes),
            tuple(one.decoder_directions().detach().float().cpu() for one in (other, sae)),  # type: ignore[arg-type]
            kind=options.competition,
            threshold=threshold,
            min_count=options.min_count,
            shrink=options.shrink,
            per_token=options.per_token,
            n_nulls=N_NULLS,
            seed=context.seed,
        )
        sides = {"reference": found.before, "this_SAE": found.after}
        values: dict[str, float | None] = {"threshold": threshold, "overlap_ratio": _number(found.overlap_ratio)}
        for key, one in sides.items():
            null, spread = mean_and_spread(list(one.null_totals))
            values |= {
                f"pairs/{key}": len(one.pairs.c),
                f"total_c/{key}": one.total,
                f"total_c_null/{key}": null,
                f"total_c_null_sd/{key}": spread,
                f"weighed_cosine/{key}": _number(one.weighed_cosine),
            }
        return AnalysisResult(
            values=values,
            series={f"{name}/{key}": data for key, one in sides.items() for name, data in _shown(one).items()},
            figures=(_figure(found, self.reference.label, training.run or "this SAE", threshold, tokens.n),),
            notes=(
                f"{note} The reference is {self.reference.label}; its threshold is used for both.",
                "overlap_ratio: the sum of c beyond chance, this SAE's over the reference's. Near 1 with a lower "
                "weighed_cosine, rows have turned apart and latents go on firing together.",
            ),
        )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(one: Competing) -> dict[str, list[float]]:
    """The pairs of largest c, as many as a figure can show."""
    at = one.pairs.c.argsort(descending=True, stable=True)[:_SHOWN]
    return {"c": numbers(one.pairs.c[at]), "cosine": numbers(one.cosine[at])}


def _figure(found: CompetitionChange, reference: str, own: str, threshold: float, n: int) -> Figure:
    sides = ((reference, found.before), (own, found.after))
    bars = [
        Bars(
            label=name,
            categories=["firing rates alone", "beyond chance"],
            heights=[one.total - one.excess, one.excess],
            errors=[mean_and_spread(list(one.null_totals))[1]] * 2,
        )
        for name, one in sides
    ]
    ratio = found.overlap_ratio
    panels = [
        Panel(
            marks=bars,
            title="Sum of c" + (f": beyond chance {ratio:.2f} of the reference's" if math.isfinite(ratio) else ""),
            x_label="what of it",
            y_label="sum of c over competing pairs",
        ),
        Panel(
            marks=[
                Histogram(label=f"{name} ({len(one.pairs.c)})", edges=_C_EDGES, counts=histogram(one.pairs.c, _C_EDGES))
                for name, one in sides
            ],
            title="How strongly pairs compete",
            x_label="c",
            y_label="pairs",
        ),
        Panel(
            marks=[
                Histogram(
                    label=f"{name}, mean by c: {one.weighed_cosine:.2f}" if len(one.cosine) else name,
                    edges=_COSINES,
                    counts=histogram(one.cosine.abs(), _COSINES),
                )
                for name, one in sides
            ],
            title="How near their rows lie",
            x_label="|cosine| of the decoder rows",
            y_label="pairs",
        ),
        Panel(
            marks=[Scatter(label=name, x=_shown(one)["c"], y=_shown(one)["cosine"]) for name, one in sides],
            title="Both at once",
            x_label="c",
            y_label="cosine of the decoder rows",
            y_reference=0.0,
        ),
    ]
    return Figure(
        name="competition_change",
        title="Do latents compete less, or do only their rows turn apart?",
        panels=panels,
        caption=(
            f"Pairs of c above {threshold:.3g} on the same {n} held-out tokens. Firing rates alone: the tokens of each "
            f"latent are drawn anew, apart from all others' ({N_NULLS} draws, bars: their standard deviation); beyond "
            "chance is the rest. Fewer pairs and less beyond chance: latents fire together less. The same, at smaller "
            "cosines: their rows alone have turned."
        ),
    )
