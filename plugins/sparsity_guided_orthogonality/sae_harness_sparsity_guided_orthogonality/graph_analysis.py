"""The analysis `competition_graph`: who competes with whom, in what communities, and how much of it is chance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness import (
    SAE,
    Analysis,
    AnalysisResult,
    Bars,
    EvalContext,
    Figure,
    Graph,
    Histogram,
    Panel,
    Scatter,
    Table,
    TrainingLog,
)
from harness.training.pair_penalties import pair_cosines
from harness.training.pairs import PairStatistics

from .analyses import CompetitionGraph, Edges, competition_graph, top_competitors
from .counting import Counting, mean_and_spread, null_statistics, statistics, strongest, within
from .held_out import competition_options, histogram, numbers, places, sample, strongest_tokens, token_texts

MAX_EDGES = 20_000
"""Edges of largest c in which communities are looked for."""
N_NULLS = 3
N_LATENTS = 50
"""Latents of the largest strength whose competitors are listed."""
N_COMPETITORS = 20
N_EXAMPLES = 3
_DRAWN_LATENTS = 30
_DRAWN_EDGES = 100
_BARS = 12


@dataclass(frozen=True, slots=True)
class _Null:
    """Of the draws in which latents keep how often they fire and lose what they share."""

    degrees: Tensor
    """[d_sae] of the first draw, at the same threshold."""
    weights: Tensor
    """[p] c of the first draw's edges."""
    edges: list[float]
    """How many, in each draw."""
    totals: list[float]
    modularity: list[float]
    """Of as many edges as the SAE's graph has (the null's strongest), in each draw."""


class CompetitionGraphAnalysis(Analysis):
    """Degrees, weights, communities and modularity of the graph of competing latents, against a null with the same
    firing rates; the strongest competitors with tokens."""

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        options, note = competition_options(training)
        tokens = sample(sae, context, options.per_token)
        found = statistics(tokens.codes, sae, options)
        counting = Counting.of(options, found)
        chosen = counting.edges(found)
        kept = strongest(chosen, MAX_EDGES)
        graph = _graph(found, chosen, kept, context.seed)
        nulls = [null_statistics(tokens, sae, context, options, draw) for draw in range(N_NULLS)]
        null = _null(nulls, counting, len(kept.c), context.seed)
        notes = [
            note,
            f"{tokens.n} held-out tokens; pairs compete above c = {counting.threshold:.3g} if they fire together on "
            f"{options.min_count} or more. The null draws the tokens of each latent anew, {N_NULLS} times.",
        ]
        if len(kept.c) < len(chosen.c):
            notes.append(f"Communities are those of the {MAX_EDGES} edges of largest c, of {len(chosen.c)}.")
        if len(chosen.c) == 0:
            notes.append("No pair competes at this threshold: the graph is empty.")
        values = _values(graph, chosen, found.fires, null)
        shown = graph.strength.argsort(descending=True, stable=True)[:N_LATENTS]
        shown = shown[graph.strength[shown] > 0]
        competitors = top_competitors(chosen, tokens.codes, shown.tolist(), n=N_COMPETITORS, n_tokens_shown=N_EXAMPLES)
        where = places(sae, context, tokens)
        labels = _labels(shown[:_DRAWN_LATENTS], strongest_tokens(sae, context, tokens, shown[:_DRAWN_LATENTS]))
        if any(place.endswith("]") for place in where) and token_texts(context, [0]) is None:
            notes.append("Examples are token ids: these data have no tokenizer.")
        return AnalysisResult(
            values=values,
            series={
                "degree": numbers(graph.degree),
                "strength": numbers(graph.strength),
                "community": numbers(graph.community),
                "firings": numbers(found.fires),
                "modularity_null": [value if math.isfinite(value) else None for value in null.modularity],
            },
            tables={"competitors": _competitors(competitors, graph, sae, where), "communities": _communities(graph)},
            figures=(_figure(graph, chosen, found.fires, null, values, tokens.n, labels),),
            notes=notes,
        )


def _graph(found: PairStatistics, chosen: Edges, kept: Edges, seed: int) -> CompetitionGraph:
    """Of all competing pairs, with the communities of those kept."""
    graph = competition_graph(found, kept, seed=seed)
    ends = torch.cat([chosen.first, chosen.second])
    return replace(
        graph,
        degree=torch.bincount(ends, minlength=len(found.fires)),
        strength=torch.zeros_like(graph.strength).index_add(0, ends, chosen.c.repeat(2)),
        total=float(chosen.c.sum()),
    )


def _null(draws: list[PairStatistics], counting: Counting, n_edges: int, seed: int) -> _Null:
    counts, totals, modularity = [], [], []
    for found in draws:
        own = counting.edges(found)
        counts.append(float(len(own.c)))
        totals.append(float(own.c.sum()))
        as_many = strongest(counting.edges(found, threshold=0.0), n_edges)
        modularity.append(competition_graph(found, as_many, seed=seed).modularity)
    first = counting.edges(draws[0])
    degrees = torch.bincount(torch.cat([first.first, first.second]), minlength=len(draws[0].fires))
    return _Null(degrees, first.c, counts, totals, modularity)


def _values(graph: CompetitionGraph, chosen: Edges, fires: Tensor, null: _Null) -> dict[str, Any]:
    live = max(1, int((fires > 0).sum()))
    modularity, spread = mean_and_spread(null.modularity)
    sizes = torch.bincount(graph.community[graph.community >= 0])
    return {
        "live_latents": live,
        "edges": len(chosen.c),
        "edges/null": sum(null.edges) / len(null.edges),
        "total_c": float(chosen.c.sum()),
        "total_c/null": sum(null.totals) / len(null.totals),
        "mean_degree": 2 * len(chosen.c) / live,
        "largest_degree": int(graph.degree.max()),
        "share_with_competitor": float((graph.degree > 0).sum()) / live,
        "communities": len(sizes),
        "largest_community": int(sizes.max()) if len(sizes) else 0,
        "modularity": None if math.isnan(graph.modularity) else graph.modularity,
        "modularity/null": modularity,
        "modularity_sd/null": spread,
    }


def _labels(latents: Tensor, texts: list[str]) -> list[str]:
    """Of the latents that are drawn: number, and the token on which it is largest."""
    return [f"{latent} {text}".strip() for latent, text in zip(latents.tolist(), texts, strict=True)]


def _competitors(found: dict, graph: CompetitionGraph, sae: SAE, where: list[str]) -> Table:
    pairs = [(latent, one) for latent, ones in found.items() for one in ones]
    first, second = (
        torch.tensor(ids, dtype=torch.int64) for ids in ([p[0] for p in pairs], [p[1].latent for p in pairs])
    )
    cosines = pair_cosines(sae.decoder_directions().detach().float().cpu(), first, second).tolist()
    rows = [
        [
            latent,
            int(graph.community[latent]),
            one.latent,
            int(graph.community[one.latent]),
            one.c,
            cosine,
            " | ".join(where[token] for token in one.tokens),
        ]
        for (latent, one), cosine in zip(pairs, cosines, strict=True)
    ]
    columns = ("latent", "community", "competitor", "its_community", "c", "cosine", "tokens_of_both")
    return Table(columns=columns, rows=rows)


def _communities(graph: CompetitionGraph) -> Table:
    rows = []
    for number in range(int(graph.community.max()) + 1):
        members = (graph.community == number).nonzero().squeeze(1)
        order = graph.strength[members].argsort(descending=True, stable=True)
        rows.append([number, len(members), " ".join(map(str, members[order][:20].tolist()))])
    return Table(columns=("community", "latents", "strongest"), rows=rows)


def _figure(
    graph: CompetitionGraph,
    chosen: Edges,
    fires: Tensor,
    null: _Null,
    values: dict,
    n_tokens: int,
    labels: list[str],
) -> Figure:
    live = fires > 0
    top = max(10, int(graph.degree.max()), int(null.degrees.max()))
    step = max(1, -(-top // 40))
    degrees = [float(edge) - 0.5 for edge in range(0, top + step + 1, step)]
    weights = [i / 25 for i in range(26)]
    panels = [
        Panel(
            marks=[
                Histogram(label="this SAE", edges=degrees, counts=histogram(graph.degree[live], degrees)),
                Histogram(label="firing rates alone", edges=degrees, counts=histogram(null.degrees[live], degrees)),
            ],
            title="Competitors of a latent",
            x_label="degree",
            y_label="latents",
            y_scale="log",
        ),
        Panel(
            marks=[
                Histogram(label="this SAE", edges=weights, counts=histogram(chosen.c, weights)),
                Histogram(label="firing rates alone", edges=weights, counts=histogram(null.weights, weights)),
            ],
            title="Weights of the edges",
            x_label="c",
            y_label="pairs",
            y_scale="log" if len(chosen.c) else "linear",
        ),
        Panel(
            marks=[Scatter(x=numbers(fires[live] / n_tokens), y=numbers(graph.degree[live]))],
            title="Do frequent latents have more competitors?",
            x_label="firing rate (share of tokens)",
            y_label="degree",
            x_scale="log",
        ),
    ]
    if len(chosen.c):
        panels += [_community_sizes(graph), _modularity(values), _drawn(graph, chosen, labels)]
    return Figure(
        name="competition_graph",
        title="Which latents compete?",
        panels=panels,
        caption=(
            f"Pairs of latents that fire together on {n_tokens} held-out tokens. Firing rates alone: the tokens of "
            "each latent are drawn anew, apart from all others'; its modularity is that of its strongest edges, as "
            "many as this SAE has. Colours are communities (Louvain)."
        ),
    )


def _community_sizes(graph: CompetitionGraph) -> Panel:
    sizes = torch.bincount(graph.community[graph.community >= 0])
    shown = sizes[:_BARS]
    return Panel(
        marks=[Bars(categories=[str(number) for number in range(len(shown))], heights=numbers(shown))],
        title=f"The largest communities, {len(shown)} of {len(sizes)}",
        x_label="community",
        y_label="latents",
    )


def _modularity(values: dict) -> Panel:
    bars = Bars(
        categories=["this SAE", f"firing rates alone ({N_NULLS} draws)"],
        heights=[values["modularity"], values["modularity/null"]],
        errors=[None, values["modularity_sd/null"]],
    )
    return Panel(marks=[bars], title="Modularity of the communities", x_label="graph", y_label="modularity")


def _drawn(graph: CompetitionGraph, chosen: Edges, labels: list[str]) -> Panel:
    shown = graph.strength.argsort(descending=True, stable=True)[: len(labels)]
    has = graph.community[shown] >= 0
    shown, labels = shown[has], [label for label, own in zip(labels, has.tolist(), strict=True) if own]
    links = sorted(within(chosen, shown), key=lambda edge: -edge[2])[:_DRAWN_EDGES]
    drawn = Graph(
        nodes=labels,
        edges=links,
        groups=graph.community[shown].tolist(),
        sizes=numbers(graph.strength[shown]),
    )
    return Panel(marks=[drawn], title=f"The {len(shown)} that compete most, with their strongest token")
