"""The analysis `unlearning_levels`: the whole sweep of every level on a language model's texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from harness import SAE, AnalysisResult, Bars, EvalContext, Figure, HeatMap, Line, Panel, Table, TrainingLog
from harness.evaluation.unlearning import Setting, best_within, bootstrap, settings_of
from harness.evaluation.unlearning_sweep import REPORT, SELECTION

from .interventions import CONCEPTS_PER_LATENT
from .texts import TextInterventions, TextTask

SETTINGS = settings_of(
    [("rate", 0.01), ("ratio", 0.95), ("information", 1.0), ("attribution", 0.1)], (4, 16), (0.0, 1.0, 4.0), "mean"
)
"""Strength 0 is zero-ablation."""
BUDGETS = tuple(0.005 * step for step in range(1, 21))
"""Allowed rises on retain texts."""
BUDGET = 0.01
_Z = 1.96


class Sweep:
    """One level's sweep: chosen on one half of the texts, read on the other."""

    def __init__(self, task: TextTask, interventions: TextInterventions, level: str) -> None:
        self.task = task
        make = interventions.make(level)
        losses = torch.stack([task.losses(make(setting), SELECTION) for setting in SETTINGS])
        self.gain = task.rises(losses, SELECTION, forget=True)
        self.cost = task.rises(losses, SELECTION, forget=False)
        self.chosen = best_within(self.gain, self.cost, BUDGET)
        at = [best_within(self.gain, self.cost, budget) for budget in BUDGETS]
        read = {place: task.losses(make(SETTINGS[place]), REPORT) for place in {*at, self.chosen} - {-1}}
        self.read = read | {-1: task.bench.clean.ce}
        """Losses [texts] of the report half at the settings that were chosen; -1: the LM as it is."""
        self.frontier = torch.stack([self.read[place] for place in at])
        """[budgets, texts]."""

    def rows(self, level: str) -> list[list[float | int | str | bool | None]]:
        """The whole sweep, with the report half where it was read."""
        found: list[list[float | int | str | bool | None]] = []
        for place, setting in enumerate(SETTINGS):
            report: list[float | None] = [None, None]
            if place in self.read:
                own = self.read[place]
                report = [float(self.task.rises(own, REPORT, forget=side)) for side in (True, False)]
            found.append(
                [
                    level,
                    f"{setting.selector}:{setting.threshold:g}",
                    setting.n,
                    setting.strength,
                    float(self.gain[place]),
                    float(self.cost[place]),
                    *report,
                    place == self.chosen,
                ]
            )
        return found


def unlearning_levels(sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
    """What clamping latents, gated latents, concepts and both does to texts to be forgotten and others.

    Raises:
        DataError: there is no language model, the table has not been fetched, or there are too few texts.
    """
    task = TextTask(sae, context)
    interventions = TextInterventions(task)
    sweeps = {level: Sweep(task, interventions, level) for level in interventions.names}
    values: dict[str, float | int | str | None] = {}
    for level, sweep in sweeps.items():
        values[f"{level}/setting"] = told(SETTINGS[sweep.chosen]) if sweep.chosen >= 0 else None
        for name, forget in (("forget_rise", True), ("retain_rise", False)):
            rise = task.rise(sweep.read[sweep.chosen], task.report(forget=forget))
            values[f"{level}/{name}"], values[f"{level}/{name}/stderr"] = rise.value, rise.stderr
        area, error = _frontier(task, sweep)
        values[f"{level}/frontier"], values[f"{level}/frontier/stderr"] = area, error
    figures = [_figure(task, sweeps)]
    chosen = sweeps["base"].chosen
    notes = ["Chosen on one half of the texts, read on the other. Relearning is not tested."]
    if chosen >= 0:
        random = task.losses(interventions.random(SETTINGS[chosen]), REPORT)
        for name, forget in (("forget_rise", True), ("retain_rise", False)):
            values[f"random/{name}"] = float(task.rises(random, REPORT, forget=forget))
        if interventions.levels is not None:
            found, figure = _interaction(task, interventions, SETTINGS[chosen])
            values |= found
            figures.append(figure)
    else:
        notes.append(f"No setting of the base level keeps retain texts within {BUDGET:.0%}.")
    columns = ("level", "selector", "latents", "strength", "selection_forget_rise", "selection_retain_rise",
               "forget_rise", "retain_rise", "chosen")  # fmt: skip
    domains, matrix = _by_domain(task, sweeps)
    return AnalysisResult(
        values=values,
        tables={
            "sweep": Table(columns=columns, rows=[row for level, sweep in sweeps.items() for row in sweep.rows(level)]),
            "domains": Table(
                columns=("domain", "forget", *sweeps),
                rows=[[name, forget, *row] for (name, forget), row in zip(domains, matrix, strict=True)],
            ),
        },
        figures=figures,
        notes=notes,
    )


def told(setting: Setting) -> str:
    """A setting in words."""
    concepts = max(1, round(setting.n * CONCEPTS_PER_LATENT))
    strength = f"-{setting.strength:g} means" if setting.strength else "ablated"
    return f"{setting.selector}:{setting.threshold:g}, {setting.n} latents or {concepts} concepts, {strength}"


def _frontier(task: TextTask, sweep: Sweep) -> tuple[float, float]:
    """Mean over budgets of the rise on forget texts, and its standard error over texts."""
    own = task.report(forget=True)
    modified, clean = sweep.frontier[:, own].mean(0), task.bench.clean.ce[own]

    def measure(weights: Tensor) -> Tensor:
        return (weights @ modified) / (weights @ clean) - 1

    interval = bootstrap((len(clean),), measure, task.context.generator("bootstrap"))
    return float(modified.sum() / clean.sum() - 1), interval.stderr


def _interaction(
    task: TextTask, interventions: TextInterventions, setting: Setting
) -> tuple[dict[str, float | int | str | None], Figure]:
    """Rises of both levels alone and together at one setting, and what both do beyond the sum."""
    names = ("base", "concept", "coordinated")
    losses = [task.losses(interventions.make(name)(setting), REPORT) for name in names]
    changes = torch.stack([change - task.bench.clean.ce for change in losses])
    changes = torch.cat([changes, (changes[2] - changes[1] - changes[0])[None]])
    values: dict[str, float | int | str | None] = {}
    panels = []
    for side, forget in (("forget", True), ("retain", False)):
        own = task.report(forget=forget)
        clean, shares, errors = task.bench.clean.ce[own], [], []
        for name, change in zip((*names, "non_additive"), changes[:, own], strict=True):
            # The same texts are drawn for every level: their errors are paired.
            generator = task.context.generator("bootstrap")
            interval = bootstrap((len(clean),), lambda w, c=change, ce=clean: (w @ c) / (w @ ce), generator)
            shares.append(float(change.sum() / clean.sum()))
            errors.append(interval.stderr)
            values[f"interaction/{name}/{side}_rise"] = shares[-1]
            values[f"interaction/{name}/{side}_rise/stderr"] = errors[-1]
        marks = [
            Bars(label="", categories=[*names, "both - sum"], heights=shares, errors=[_Z * error for error in errors])
        ]
        panels.append(
            Panel(
                title=f"{side.capitalize()} texts",
                marks=marks,
                x_label="level",
                y_label="rise of the cross-entropy",
                y_reference=0.0,
            )
        )
    figure = Figure(
        name="interaction",
        title="Latents, concepts, and both",
        panels=panels,
        caption=f"At the setting that the base level chose: {told(setting)}. Bars: 95 % intervals over texts.",
    )
    return values, figure


def _by_domain(task: TextTask, sweeps: Mapping[str, Sweep]) -> tuple[list[tuple[str, bool]], list[list[float | None]]]:
    """Domains, those to be forgotten first, and the rise of each at every level's own setting."""
    sides = dict(zip(task.domain, task.bench.forget.tolist(), strict=True))
    names = sorted(sides.items(), key=lambda found: (not found[1], found[0]))
    matrix: list[list[float | None]] = []
    for name, forget in names:
        own = task.report(forget=forget) & torch.tensor([domain == name for domain in task.domain])
        rises = [task.rise(sweep.read[sweep.chosen], own).value if bool(own.any()) else None for sweep in
                 sweeps.values()]  # fmt: skip
        matrix.append(rises)
    return names, matrix


def _figure(task: TextTask, sweeps: Mapping[str, Sweep]) -> Figure:
    lines = []
    for level, sweep in sweeps.items():
        rises: Sequence[float] = task.rises(sweep.frontier, REPORT, forget=True).tolist()
        lines.append(Line(label=level, x=BUDGETS, y=rises))
    domains, matrix = _by_domain(task, sweeps)
    ticks = {row: ("forget " if forget else "") + name for row, (name, forget) in enumerate(domains)}
    return Figure(
        name="levels",
        title="Forgetting by level",
        panels=(
            Panel(
                title="Frontier",
                marks=lines,
                x_label="allowed rise on retain texts (selection half)",
                y_label="rise on forget texts (report half)",
                y_reference=0.0,
            ),
            Panel(
                title="Side effects",
                marks=[
                    HeatMap(
                        rows=matrix,
                        colour_label="rise of the cross-entropy",
                        x_ticks=dict(enumerate(sweeps)),
                        y_ticks=ticks,
                        diverging=True,
                    )
                ],
                x_label="level",
                y_label="domain",
            ),
        ),
        caption=f"Right: at the setting that each level chose within {BUDGET:.0%} on retain texts; 0 where it chose "
        "none.",
    )
