"""Analyses of an SAE of two levels: how levels act together, what belongs to what, and how selective each level is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from harness import (
    SAE,
    AnalysisResult,
    Bars,
    DataError,
    EvalContext,
    Figure,
    Graph,
    HeatMap,
    Histogram,
    Panel,
    RaggedCodes,
    Table,
    TrainingLog,
)
from harness.data.worlds import join_codes
from harness.evaluation.metrics import token_of_slot
from harness.evaluation.unlearning import Firings, bootstrap

from .levels import Levels, levels_of, parents_of
from .links import LIFT, Links, largest
from .side_effects import SETTINGS, Outcome, World, WorldInterventions
from .sides import has_world, sides
from .truth import roots

_SHOWN_CHILDREN = 120
_EDGES = [step / 4 for step in range(-12, 13)]
"""Of log10 of the ratio of firing rates."""
_LEAST_FIRINGS = 20


def level_interaction(sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
    """Effects of clamping latents, concepts and both at the setting that the base level chose, and what is left of
    the effect of both beyond the sum of the two; and which trees are hit.

    Raises:
        DataError: the SAE has one level, or no setting stays within the budget.
    """
    _require_levels(sae)
    world = World(sae, context)
    interventions = WorldInterventions(world)
    chosen = Outcome(world, world.sweep(interventions.base)).chosen
    if chosen < 0:
        raise DataError("No setting removes anything within the budget: there is no interaction to look at.")
    names = ("base", "concept", "coordinated")
    moved = {name: world.changed(interventions.make(name)(SETTINGS[chosen])) for name in names}
    report, tally = world.report, world.tally
    counts = {name: tally.count(*change) for name, change in moved.items()}
    values: dict[str, float | int | str] = {"setting": _told(chosen)}
    intervals: dict[str, tuple[list[float], list[float]]] = {}
    for place, (kind, firings) in enumerate(
        (("removed", tally.forget_firings[report]), ("disturbed", tally.retain_firings[report]))
    ):
        rows = torch.stack([counts[name][place][report] for name in names])
        rows = torch.cat([rows, (rows[2] - rows[1] - rows[0])[None]])
        shares, errors = _shares(rows, firings, context)
        for name, share, error in zip((*names, "non_additive"), shares, errors, strict=True):
            values[f"{kind}/{name}"] = share
            values[f"{kind}/{name}/stderr"] = error
        intervals[kind] = (shares, [1.96 * error for error in errors])
    matrix, trees = _by_tree(world, {name: tally.by_feature(*change) for name, change in moved.items()}, names)
    return AnalysisResult(
        values=values,
        tables={"trees": Table(columns=("tree", "forget", *names), rows=trees)},
        figures=(_interaction_figure(names, intervals, matrix, trees),),
        notes=(f"Setting: {_told(chosen)}; ± are standard errors over documents.",),
    )


def _told(chosen: int) -> str:
    setting = SETTINGS[chosen]
    return f"{setting.selector}:{setting.threshold:g}, {setting.n} latents, -{setting.strength:g} means"


def _shares(rows: Tensor, firings: Tensor, context: EvalContext) -> tuple[list[float], list[float]]:
    """Of counts [m, d] over firings [d], the shares and their standard errors over documents."""
    errors = []
    for row in rows:
        generator = context.generator("bootstrap")  # the same documents for every level: their errors are paired

        def measure(weights: Tensor, row: Tensor = row) -> Tensor:
            return (weights @ row) / (weights @ firings).clamp_min(1.0)

        errors.append(bootstrap((len(firings),), measure, generator).stderr)
    return (rows.sum(1) / firings.sum()).tolist(), errors


def _by_tree(
    world: World, hit: dict[str, Tensor], names: Sequence[str]
) -> tuple[list[list[float]], list[list[float | int | bool]]]:
    """Share of each tree's firings that are hit at each level; all lone features count as tree -1."""
    truth = world.context.truth
    parent = truth.parent.cpu()
    root, has_child = roots(parent), torch.zeros(len(parent), dtype=torch.bool)
    has_child[parent[parent >= 0]] = True
    tree = torch.where(has_child[root], root, -1)
    present = torch.bincount(truth.codes.latents.cpu(), minlength=len(parent)).double()
    rows: list[list[float | int | bool]] = []
    for name in sorted(set(tree.tolist()), key=lambda t: (not bool(world.forget[tree == t].any()), t)):
        own = tree == name
        firings = float(present[own].sum())
        if firings > 0:
            shares = [float(hit[level][own].sum()) / firings for level in names]
            rows.append([name, bool(world.forget[own].any()), *shares])
    return [[float(value) for value in row[2:]] for row in rows], rows


def _interaction_figure(
    names: Sequence[str],
    intervals: dict[str, tuple[list[float], list[float]]],
    matrix: list[list[float]],
    trees: Sequence[Sequence[float | int | bool]],
) -> Figure:
    categories = [*names, "both - sum"]
    bars = [
        Panel(
            title=f"{kind.capitalize()} firings",
            marks=[Bars(label="", categories=categories, heights=heights, errors=errors)],
            x_label="level",
            y_label="share of firings",
            y_reference=0.0,
        )
        for kind, (heights, errors) in intervals.items()
    ]
    ticks = {row: ("forget " if tree[1] else "") + ("lone" if tree[0] == -1 else str(tree[0])) for row, tree in
             enumerate(trees)}  # fmt: skip
    effects = Panel(
        title="What is hit, by tree",
        marks=[HeatMap(rows=matrix, colour_label="share of firings", x_ticks=dict(enumerate(names)), y_ticks=ticks)],
        x_label="level",
        y_label="root of the tree",
    )
    return Figure(
        name="level_interaction",
        title="Latents, concepts, and both",
        panels=(*bars, effects),
        columns=3,
        caption="Forget firings: removed, should be 1. Retain firings: disturbed, should be 0. Bars: 95 % intervals.",
    )


def hierarchy(sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
    """Which concept each latent belongs to, P(concept | latent), entropy, concepts' purity, and the tree.

    A concept's purity is the share of its own children among all latents with a parent that fire while it is active; in
    a world also the largest share of its tokens on which one true tree is there, and how often that tree is there.

    Raises:
        DataError: the SAE has one level, or there are no tokens.
    """
    levels = _require_levels(sae)
    parts = [part.codes for part in context.encoded(sae)]
    if not sum(len(codes.offsets) - 1 for codes in parts):
        raise DataError("There is no held-out token to see a hierarchy on.")
    codes = join_codes(parts)
    concepts = levels.concepts(codes)
    links = Links.of(codes, concepts, sae.config.d_sae, levels.n_concepts)
    parents = parents_of(levels, links)
    given, lift = (links.with_parents(values, parents) for values in (links.given_child(), links.lift()))
    entropy = child_entropy(links)
    children = (parents >= 0).nonzero().squeeze(1)
    able = (links.latent > 0) & levels.may_have_parent(sae.config.d_sae)
    certainty = given[children]
    rows = [
        [int(i), int(parents[i]), float(given[i]), float(lift[i]), float(entropy[i])]
        for i in children[certainty.argsort(descending=True, stable=True)].tolist()
    ]
    counts = torch.bincount(parents[children], minlength=levels.n_concepts)
    dot = to_dot(parents, given)
    pure = purity(links, parents)
    of_concepts, tree_values = _concept_rows(links, counts, pure, _trees(context, concepts, levels.n_concepts))
    families = counts > 0
    values = {
        "concepts": levels.n_concepts,
        "concepts_active": int((links.concept > 0).sum()),
        "concepts_with_children": int((counts > 0).sum()),
        "latents_that_fire": int(able.sum()),
        "latents_with_parent": len(children),
        "mean_parent_given_child": float(certainty.mean()) if len(children) else None,
        "mean_entropy_bits": float(entropy[able].mean()) if bool(able.any()) else None,
        "largest_family": int(counts.max()),
        "mean_purity": float(pure[families].mean()) if bool(families.any()) else None,
        **tree_values,
    }
    figures = [_family_figure(links, certainty, counts)]
    if len(children):
        figures.append(_tree_figure(parents, given, children))
    return AnalysisResult(
        values=values,
        tables={
            "children": Table(columns=("latent", "concept", "p_parent_given_child", "lift", "entropy_bits"), rows=rows),
            "concepts": of_concepts,
            "tree_dot": Table(columns=("line",), rows=[[line] for line in dot.splitlines()]),
        },
        figures=figures,
        notes=(f"A latent has a parent where the concept's lift is at least {LIFT:g}; the tree has two levels.",),
    )


def purity(links: Links, parents: Tensor) -> Tensor:
    """[n_concepts] float64: of the firings of latents with a parent on a concept's tokens, the share of its own
    children; 0 where there is none."""
    theirs = parents[links.child]
    own = links.of_parents(links.both * (theirs == links.parent))
    return own / links.of_parents(links.both * (theirs >= 0)).clamp_min(1e-12)


def _trees(context: EvalContext, concepts: RaggedCodes, n_concepts: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """For each concept the true tree that is there on most of its tokens, the share of them, and the tree's own share
    of all tokens; None where there is no world, or tokens other than its."""
    if not has_world(context):
        return None
    truth = context.truth
    codes, root = truth.codes, roots(truth.parent.cpu())
    n, n_tokens = len(root), len(codes.offsets) - 1
    if n_tokens != len(concepts.offsets) - 1:
        return None
    cells = (token_of_slot(codes).cpu() * n + root[codes.latents.cpu()]).unique()
    there = RaggedCodes(
        cells % n,
        torch.nn.functional.pad(torch.bincount(cells // n, minlength=n_tokens).cumsum(0), (1, 0)),
        torch.ones(len(cells)),
    )
    on_cpu = RaggedCodes(*(tensor.cpu() for tensor in concepts))
    found = Links.of(there, on_cpu, n, n_concepts)
    share, pair = largest(found.given_parent(), found.parent, n_concepts)
    tree = torch.where(share > 0, found.child[pair], 0) if len(found.child) else pair
    return tree, share, (found.latent / max(1, n_tokens))[tree]


def _concept_rows(
    links: Links, counts: Tensor, pure: Tensor, trees: tuple[Tensor, Tensor, Tensor] | None
) -> tuple[Table, dict[str, float | None]]:
    """A row of each concept that is active, those of most children first."""
    rate = links.concept / max(1, links.n_tokens)
    columns = ["concept", "rate", "children", "purity"]
    if trees is not None:
        columns += ["tree", "tree_share", "tree_rate"]
    rows: list[list[float | int]] = []
    for c in counts.argsort(descending=True, stable=True).tolist():
        if links.concept[c] == 0:
            continue
        row: list[float | int] = [c, float(rate[c]), int(counts[c]), float(pure[c])]
        rows.append(row if trees is None else [*row, int(trees[0][c]), float(trees[1][c]), float(trees[2][c])])
    values: dict[str, float | None] = {}
    if trees is not None:
        active = links.concept > 0
        values["mean_tree_share"] = float(trees[1][active].mean()) if bool(active.any()) else None
        values["mean_tree_rate"] = float(trees[2][active].mean()) if bool(active.any()) else None
    return Table(columns=columns, rows=rows), values


def child_entropy(links: Links) -> Tensor:
    """[d_sae] float64, bits: entropy of a latent's co-firings over concepts; 0 where all are with one."""
    share = links.both / links.of_children(links.both)[links.child]
    return -links.of_children(torch.xlogy(share, share)) / math.log(2)


def to_dot(parents: Tensor, given: Tensor) -> str:
    """The tree in the DOT language: an edge from each concept to each child, labelled with P(concept | child), which is
    `given` [d_sae]."""
    lines = ["digraph hierarchy {", "  rankdir=LR;"]
    for concept in sorted(set(parents[parents >= 0].tolist())):
        lines.append(f'  c{concept} [label="concept {concept}" shape=box];')
        for child in (parents == concept).nonzero().squeeze(1).tolist():
            lines.append(f'  c{concept} -> f{child} [label="{float(given[child]):.2f}"];')
    return "\n".join([*lines, "}"])


def _family_figure(links: Links, certainty: Tensor, counts: Tensor) -> Figure:
    edges = [step / 10 for step in range(11)]
    best, _ = largest(links.given_child(), links.child, len(links.latent))
    certain = torch.histogram(best.float(), torch.tensor(edges)).hist.tolist()
    own = torch.histogram(certainty.float(), torch.tensor(edges)).hist.tolist()
    sizes = torch.bincount(counts[counts > 0]) if bool((counts > 0).any()) else torch.zeros(1, dtype=torch.int64)
    return Figure(
        name="families",
        title="Concepts and their children",
        panels=(
            Panel(
                title="How surely a concept goes with a latent",
                marks=[
                    Histogram(label="largest of all concepts", edges=edges, counts=certain),
                    Histogram(label="parent", edges=edges, counts=own),
                ],
                x_label="P(concept active | latent fires)",
                y_label="latents",
            ),
            Panel(
                title="Sizes of families",
                marks=[Bars(label="", categories=[str(i) for i in range(len(sizes))], heights=sizes.double().tolist())],
                x_label="children of a concept",
                y_label="concepts",
            ),
        ),
    )


def _tree_figure(parents: Tensor, given: Tensor, children: Tensor) -> Figure:
    """The surest children with their concepts."""
    order = given[children].argsort(descending=True, stable=True)[:_SHOWN_CHILDREN]
    shown = children[order].tolist()
    concepts = sorted({int(parents[i]) for i in shown})
    place = {concept: n for n, concept in enumerate(concepts)}
    edges = [(place[int(parents[i])], len(concepts) + n, max(1e-6, float(given[i]))) for n, i in enumerate(shown)]
    return Figure(
        name="tree",
        title="Concepts and the latents that belong to them",
        panels=(
            Panel(
                marks=[
                    Graph(
                        nodes=[f"c{concept}" for concept in concepts] + [""] * len(shown),
                        edges=edges,
                        groups=[place[concept] for concept in concepts] + [place[int(parents[i])] for i in shown],
                        sizes=[3.0] * len(concepts) + [1.0] * len(shown),
                    )
                ],
            ),
        ),
        columns=1,
        caption=f"The {len(shown)} latents that go most surely with a concept; labels name concepts.",
    )


def selectivity(sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
    """How much more often latents, and concepts where there are any, fire on tokens to be forgotten: in a world those
    with a forget feature, elsewhere those of forget texts.

    Raises:
        DataError: there are no tokens of one kind; or neither a world nor texts.
    """
    histograms, values, rows = [], {}, []
    for name, (forget, retain) in sides(sae, context).items():
        ratio, known = log_ratio(forget, retain)
        histograms.append(Histogram(label=name, edges=_EDGES, counts=_counts(ratio[known])))
        values[f"{name}"] = int(known.sum())
        values[f"{name}/share_ten_times_as_often"] = float((ratio[known] >= 1).double().mean()) if known.any() else None
        best = ratio.masked_fill(~known, -torch.inf).argsort(descending=True, stable=True)[:20]
        rows += [
            [name, i, float(ratio[i]), float(forget.rate[i]), float(retain.rate[i])] for i in best.tolist() if known[i]
        ]
    figure = Figure(
        name="selectivity",
        title="Who fires on tokens to be forgotten",
        panels=(
            Panel(
                marks=histograms,
                x_label="log10 of rate on forget tokens over rate on others",
                y_label="latents or concepts",
            ),
        ),
        columns=1,
        caption=f"Of those that fire on at least {_LEAST_FIRINGS} tokens of the selection half; half a firing is added "
        "to each count, and what lies beyond the edges is counted in the last bins.",
    )
    columns = ("level", "id", "log10_ratio", "rate_on_forget", "rate_on_retain")
    return AnalysisResult(
        values=values, tables={"most_selective": Table(columns=columns, rows=rows)}, figures=(figure,)
    )


def log_ratio(forget: Firings, retain: Firings) -> tuple[Tensor, Tensor]:
    """[d] log10 of p_F / p_Q, with half a firing added to each count, and which have enough firings to tell."""
    p, q = (forget.fired + 0.5) / (forget.n_tokens + 1), (retain.fired + 0.5) / (retain.n_tokens + 1)
    return torch.log10(p / q), forget.fired + retain.fired >= _LEAST_FIRINGS


def _counts(values: Tensor) -> list[float]:
    return torch.histogram(values.float().clamp(_EDGES[0], _EDGES[-1]), torch.tensor(_EDGES)).hist.tolist()


def _require_levels(sae: SAE) -> Levels:
    levels = levels_of(sae)
    if levels is None:
        raise DataError(
            f"This {sae.config.architecture} SAE has one level: train `hierarchical_unlearning`, "
            "`hierarchical_prefixes` or `matryoshka`."
        )
    return levels
