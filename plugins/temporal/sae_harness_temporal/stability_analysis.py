"""The analysis `temporal_stability`: the course of codes over time, against shuffled tokens and a random SAE."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness import (
    SAE,
    Analysis,
    AnalysisResult,
    EvalContext,
    Figure,
    Histogram,
    Line,
    Panel,
    Table,
    TrainingLog,
)

from . import measures
from .measures import LAGS, SCALES
from .sequences import Series, firing_counts, random_series, series, shuffled

_NAMES = ("this SAE", "shuffled tokens", "random SAE")
_LOW = 0.25
"""Cycles per token: half of the highest frequency there is."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """All measures of one series of codes."""

    autocorrelation: Tensor
    """[L, LAGS]."""
    jaccard: Tensor
    flips: Tensor
    dwell: Tensor
    multiscale: Tensor
    frequencies: Tensor
    spectrum: Tensor
    total_variation: float
    distance: float

    @property
    def survival(self) -> list[float]:
        """Share of runs of at least 1, 2, … tokens."""
        runs = self.dwell.double()
        return (runs.flip(0).cumsum(0).flip(0) / runs.sum().clamp_min(1)).tolist()


class TemporalStability(Analysis):
    """Autocorrelation and Jaccard index to lag 32, run lengths, flip rates, multiscale ratio and spectrum."""

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        real = series(sae, context)
        counts, n_tokens = firing_counts(sae, context)
        l0 = float(counts.sum()) / n_tokens
        every = (real, shuffled(real, context), random_series(real, l0, sae, context))
        found = {name: _measure(one) for name, one in zip(_NAMES, every, strict=True)}
        notes = [
            f"{len(real.latents)} latents on {len(real.mask)} sequences; the random SAE has random unit directions and "
            f"{max(1, round(l0))} active latents a token."
        ]
        return AnalysisResult(
            values=_values(found),
            series=_series(found),
            tables={"latents": _table(real, found[_NAMES[0]])},
            figures=(_figure(found),),
            notes=notes,
        )


def _measure(one: Series) -> _Measured:
    frequencies, power = measures.spectrum(one)
    return _Measured(
        autocorrelation=measures.lag_sums(one).autocorrelation().cpu(),
        jaccard=measures.jaccard(one),
        flips=measures.flips(one).cpu(),
        dwell=measures.dwell_counts(one),
        multiscale=measures.multiscale(one).cpu(),
        frequencies=frequencies,
        spectrum=power.cpu(),
        total_variation=measures.total_variation(one),
        distance=measures.relative_distance(one),
    )


def _values(found: dict[str, _Measured]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, one in found.items():
        key = name.replace(" ", "_")
        low = one.spectrum[one.frequencies <= _LOW].sum(0).nanmean()
        values[f"autocorrelation_lag1/{key}"] = float(one.autocorrelation[:, 0].mean())
        values[f"jaccard_lag1/{key}"] = float(one.jaccard[0])
        values[f"flip_rate/{key}"] = float(one.flips.nanmean())
        lengths = torch.arange(1, LAGS + 1, dtype=torch.float64)
        values[f"mean_dwell/{key}"] = float((one.dwell * lengths).sum() / one.dwell.sum())
        values[f"total_variation/{key}"] = one.total_variation
        values[f"multiscale_8/{key}"] = float(one.multiscale[-1].nanmean())
        values[f"high_over_low_frequencies/{key}"] = float((1 - low) / low)
        values[f"distance/{key}"] = one.distance
    real, null = found[_NAMES[0]].distance, found[_NAMES[1]].distance
    values["gain"] = 1 - real / null
    return values


def _series(found: dict[str, _Measured]) -> dict[str, list[float | None]]:
    series: dict[str, list[float | None]] = {"lag": [float(lag) for lag in range(1, LAGS + 1)]}
    for name, one in found.items():
        key = name.replace(" ", "_")
        series[f"autocorrelation/{key}"] = one.autocorrelation.mean(0).tolist()
        series[f"jaccard/{key}"] = _numbers(one.jaccard)
        series[f"dwell_counts/{key}"] = one.dwell.double().tolist()
        series[f"multiscale/{key}"] = one.multiscale.nanmean(1).tolist()
        series[f"frequency/{key}"] = one.frequencies.tolist()
        series[f"spectrum/{key}"] = one.spectrum.nanmean(1).tolist()
    return series


def _numbers(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _table(real: Series, one: _Measured) -> Table:
    """The latents with the longest memory: first 50 by autocorrelation at lag 1."""
    order = one.autocorrelation[:, 0].argsort(descending=True)[:50]
    rows = [
        [
            int(real.latents[i]),
            float(one.autocorrelation[i, 0]),
            float(one.autocorrelation[i, -1]),
            _numbers(one.flips[i : i + 1])[0],
        ]
        for i in order.tolist()
    ]
    return Table(columns=("latent", "autocorrelation_lag1", f"autocorrelation_lag{LAGS}", "flip_rate"), rows=rows)


def _figure(found: dict[str, _Measured]) -> Figure:
    lags = list(range(1, LAGS + 1))
    lowest = min(float(one.flips.nanquantile(0.005)) for one in found.values())
    edges = torch.linspace(math.floor(10 * lowest) / 10, 1.0, 26)
    panels = (
        Panel(
            title="Autocorrelation of code values: mean over latents",
            marks=[_line(name, lags, one.autocorrelation.t()) for name, one in found.items()],
            x_label="lag (tokens)",
            y_label="correlation",
            y_reference=0.0,
        ),
        Panel(
            title="Jaccard index of the sets of active latents",
            marks=[Line(label=n, x=lags, y=_numbers(one.jaccard), dashed=n != _NAMES[0]) for n, one in found.items()],
            x_label="lag (tokens)",
            y_label="shared / any",
        ),
        Panel(
            title="How long latents stay active",
            marks=[_survival(name, one) for name, one in found.items()],
            x_label="run of active tokens (length or longer)",
            y_label="share of runs",
            y_scale="log",
        ),
        Panel(
            title="Flip rate: firings that follow silence",
            marks=[_histogram(name, one.flips, edges) for name, one in found.items()],
            x_label="share of a latent's firings",
            y_label="latents",
        ),
        Panel(
            title="Variance of means over neighbouring tokens",
            marks=[_line(name, list(SCALES), one.multiscale) for name, one in found.items()],
            x_label="tokens averaged (m)",
            y_label="variance, over that of unrelated tokens",
            y_reference=1.0,
        ),
        Panel(
            title="Spectrum of code values within sequences",
            marks=[_spectrum(name, one) for name, one in found.items()],
            x_label="frequency (cycles per token)",
            y_label="share of variance, relative to flat",
            y_reference=1.0,
        ),
    )
    return Figure(
        name="temporal_stability",
        title="Do latents follow the text?",
        panels=panels,
        caption=(
            "Shuffled tokens: the same codes in random order, so nothing is left but how often latents fire. "
            "Random SAE: random directions with as many active latents, so what it shows is in the activations "
            "themselves. Variance of means: that of m unrelated tokens is 1, and m is that of latents which keep their "
            "value over m tokens. Bands: middle half of this SAE's latents."
        ),
    )


def _line(name: str, x: list[int], values: Tensor) -> Line:
    """Mean over latents of values [len(x), L]; for the SAE itself with quartiles."""
    mean = _numbers(values.nanmean(1))
    if name != _NAMES[0]:
        return Line(label=name, x=x, y=mean, dashed=True)
    low, high = (_numbers(values.nanquantile(q, dim=1)) for q in (0.25, 0.75))
    return Line(label=name, x=x, y=mean, low=low, high=high)


def _survival(name: str, one: _Measured) -> Line:
    shares = [share if share > 0 else None for share in one.survival]
    return Line(label=name, x=list(range(1, LAGS + 1)), y=shares, dashed=name != _NAMES[0])


def _histogram(name: str, flips: Tensor, edges: Tensor) -> Histogram:
    """The few latents below the first edge are counted in the first bin."""
    counts = torch.histogram(flips[flips.isfinite()].float().clamp_min(float(edges[0])), edges).hist
    return Histogram(label=name, edges=edges.tolist(), counts=counts.tolist())


def _spectrum(name: str, one: _Measured) -> Line:
    flat = one.spectrum.nanmean(1) * len(one.frequencies)
    return Line(label=name, x=one.frequencies.tolist(), y=_numbers(flat), dashed=name != _NAMES[0])
