"""The evaluator `true_side_effects`: clamping latents, concepts or both in a world whose features are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness import SAE, ConfigError, DataError, EvalContext, Evaluator, MetricValue, Option, RaggedCodes
from harness.data.worlds import join_codes
from harness.evaluation.metrics import ratio_estimate, take
from harness.evaluation.unlearning import (
    Clamp,
    Firings,
    Intervention,
    Setting,
    area_under,
    best_within,
    bootstrap,
    hull_of,
    settings_of,
)

from .interventions import Interventions, quantile_of_shares
from .metrics import RETAIN_BUDGET
from .truth import FiringChanges, Tally, forget_features

SETTINGS = settings_of([("information", 1.0), ("rate", 0.01)], (4, 8, 16, 32, 64), (0.0, 1.0), "mean")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counts:
    """What each setting [s] does in each document [d]."""

    removed: Tensor
    """[s, d] float64."""
    disturbed: Tensor


class World:
    """An SAE in a world: codes of all held-out tokens, halves of documents, and what interventions do."""

    def __init__(self, sae: SAE, context: EvalContext) -> None:
        """Raises DataError where there is no token, or a half lacks one kind of tokens."""
        parts = list(context.encoded(sae))
        if not sum(len(part.rows) for part in parts):
            raise DataError("true_side_effects: no held-out token is counted.")
        self.sae, self.context = sae, context
        self.codes: RaggedCodes = join_codes([part.codes for part in parts])
        self.decode: Callable[[RaggedCodes], Tensor] = parts[-1].decode
        self.forget = forget_features(context.truth)
        changes = FiringChanges(context.truth, context.device)
        if changes.n_tokens != len(self.codes.offsets) - 1:
            raise DataError(
                f"true_side_effects: {len(self.codes.offsets) - 1} tokens are counted, and the truth is of "
                f"{changes.n_tokens}: make the activations of this world anew."
            )
        names, document = torch.cat([part.document for part in parts]).unique(return_inverse=True)
        self.tally = Tally(changes, self.forget, document)
        order = torch.randperm(len(names), generator=context.generator("halves"))
        self.report = torch.zeros(len(names), dtype=torch.bool)
        self.report[order[: len(names) // 2]] = True
        for name, half in (("selection", ~self.report), ("report", self.report)):
            if not all(float(kind[half].sum()) for kind in (self.tally.forget_firings, self.tally.retain_firings)):
                raise DataError(
                    f"true_side_effects: in the {name} half of {int(half.sum())} documents, features to be forgotten "
                    "or others never fire: evaluate on more sequences."
                )

    def firings(self, codes: RaggedCodes, width: int) -> tuple[Firings, Firings]:
        """How latents fire on the selection half's tokens with and without a forget feature."""
        selection = ~self.report.to(self.tally.document.device)[self.tally.document]
        kind = self.tally.is_forget_token
        found = []
        for own in (kind & selection, ~kind & selection):
            found.append(Firings.of([take(codes, own.nonzero().squeeze(1))], width))
        return found[0], found[1]

    def changed(self, intervention: Intervention | None) -> tuple[Tensor, Tensor]:
        """Tokens [m] that an intervention touches, and the change of their activations [m, d_in]."""
        if intervention is None:
            none = torch.zeros(0, dtype=torch.int64, device=self.tally.document.device)
            return none, torch.zeros(0, self.context.d_in, device=none.device)
        edited, touched = intervention.edit(self.codes, self.tally.document)
        tokens = touched.nonzero().squeeze(1)
        return tokens, self.decode(take(edited, tokens)) - self.decode(take(self.codes, tokens))

    def sweep(self, make: Callable[[Setting], Intervention | None]) -> Counts:
        """Every setting's counts."""
        found = [self.tally.count(*self.changed(make(setting))) for setting in SETTINGS]
        return Counts(removed=torch.stack([a for a, _ in found]), disturbed=torch.stack([b for _, b in found]))


class WorldInterventions(Interventions):
    """Those of a world, chosen on the selection half."""

    def __init__(self, world: World) -> None:
        selection = (~world.report.to(world.tally.document.device)[world.tally.document]).nonzero().squeeze(1)
        forget, retain = world.firings(world.codes, world.sae.config.d_sae)
        super().__init__(
            world.sae,
            forget,
            retain,
            concepts=lambda levels: world.firings(levels.concepts(world.codes), levels.n_concepts),
            told=lambda: take(world.codes, selection),
            gate=partial(_gate, world),
            generator=partial(world.context.generator, "matched"),
        )


def _gate(world: World, clamp: Clamp) -> float:
    tally = world.tally
    touched = clamp.edit(world.codes, tally.document).changed
    kept = ~world.report & (tally.forget_firings == 0)
    return quantile_of_shares(touched, tally.document, tally.n_documents, kept)


class TrueSideEffectsEvaluator(Evaluator):
    """Clamps latents and concepts chosen by where forget features fire, and counts what becomes of all features."""

    def __init__(self, options: Mapping[str, Option] | None = None) -> None:
        super().__init__(options)
        if self.options:
            raise ConfigError(
                f"Evaluator 'true_side_effects' takes no options, got {', '.join(sorted(self.options))}: remove them."
            )

    def evaluate(self, sae: SAE, context: EvalContext) -> Mapping[str, MetricValue]:
        """All metrics of the spec.

        Raises:
            DataError: there are no counted tokens, or a half of them lacks firings of one kind.
            NonFiniteError: a code is not finite.
        """
        world = World(sae, context)
        interventions = WorldInterventions(world)
        found = {name: Outcome(world, world.sweep(interventions.make(name))) for name in interventions.names}
        best = "coordinated" if "coordinated" in found else "base"
        areas = {name: outcome.area(context.generator("bootstrap")) for name, outcome in found.items()}
        frontier = areas[best]
        detail = {f"{name}/{key}": series for name in found for key, series in found[name].series(areas[name]).items()}
        null = Outcome(world, world.sweep(interventions.random))
        return {
            "true_frontier": MetricValue(
                value=frontier.value, n=frontier.n, stderr=frontier.stderr, detail={**_settings(), **detail}
            ),
            "true_frontier_base": areas["base"],
            "true_forget_removed": found[best].removed(found[best].chosen),
            "true_forget_removed_base": found["base"].removed(found["base"].chosen),
            "true_retain_disturbed": found[best].disturbed(found[best].chosen),
            "true_retain_disturbed_base": found["base"].disturbed(found["base"].chosen),
            "true_forget_removed_random": null.removed(found["base"].chosen),
        }


class Outcome:
    """A level's sweep in its halves."""

    def __init__(self, world: World, counts: Counts) -> None:
        self._counts, self._tally, self._report = counts, world.tally, world.report
        self.gain, self.cost = self._shares(~self._report)
        self.chosen = best_within(self.gain, self.cost, RETAIN_BUDGET)
        """On the selection half; -1 where nothing is done."""
        self.hull = hull_of(self.cost, self.gain)

    def _shares(self, half: Tensor) -> tuple[Tensor, Tensor]:
        """[s] each: forget firings removed and retain firings disturbed."""
        forget, retain = self._tally.forget_firings[half].sum(), self._tally.retain_firings[half].sum()
        return self._counts.removed[:, half].sum(1) / forget, self._counts.disturbed[:, half].sum(1) / retain

    def removed(self, place: int) -> MetricValue:
        """On the report half, at a setting."""
        return self._at(self._counts.removed, self._tally.forget_firings, place)

    def disturbed(self, place: int) -> MetricValue:
        """The same of retain firings."""
        return self._at(self._counts.disturbed, self._tally.retain_firings, place)

    def _at(self, counts: Tensor, firings: Tensor, place: int) -> MetricValue:
        numerator = counts[place] if place >= 0 else torch.zeros_like(firings)
        return ratio_estimate(numerator[self._report], firings[self._report], "share of firings")

    def area(self, generator: torch.Generator) -> MetricValue:
        """Under the settings of the selection half's hull, as the report half has them."""
        own = self._report
        removed, disturbed = self._counts.removed[self.hull][:, own], self._counts.disturbed[self.hull][:, own]
        forget, retain = self._tally.forget_firings[own], self._tally.retain_firings[own]

        def measure(weights: Tensor) -> Tensor:
            """[B] of how often each document was drawn, [B, d]."""
            return area_under(
                (weights @ disturbed.T) / (weights @ retain)[:, None].clamp_min(1.0),
                (weights @ removed.T) / (weights @ forget)[:, None].clamp_min(1.0),
            )

        whole = float(measure(torch.ones(1, len(forget), dtype=torch.float64))[0])
        interval = bootstrap((len(forget),), measure, generator)
        return MetricValue(
            value=whole,
            n=len(forget),
            stderr=interval.stderr if math.isfinite(interval.stderr) else None,
            detail={"interval": (interval.low, interval.high)},
        )

    def series(self, area: MetricValue) -> dict[str, tuple[float, ...]]:
        """The sweep on both halves, the chosen setting and the area."""
        gain, cost = self._shares(self._report)
        return {
            "selection_removed": tuple(self.gain.tolist()),
            "selection_disturbed": tuple(self.cost.tolist()),
            "removed": tuple(gain.tolist()),
            "disturbed": tuple(cost.tolist()),
            "chosen": (float(self.chosen),),
            "area": (area.value, area.stderr or 0.0),
            "at_chosen": (self.removed(self.chosen).value, self.disturbed(self.chosen).value),
        }


def _settings() -> dict[str, tuple[float, ...]]:
    return {
        "threshold": tuple(setting.threshold for setting in SETTINGS),
        "latents": tuple(float(setting.n) for setting in SETTINGS),
        "strength": tuple(setting.strength for setting in SETTINGS),
    }
