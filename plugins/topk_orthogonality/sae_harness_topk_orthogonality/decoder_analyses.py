"""The analyses `decoder_cosines` and `splitting`: how the directions of latents lie to each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
    Line,
    Panel,
    RaggedCodes,
    Scatter,
    Table,
    TrainingLog,
)
from harness.evaluation.metrics import token_of_slot

from .analyses import CosineDistribution, decoder_cosines
from .held_out import begins_at_its_seed, held_out_codes, histogram, initial_directions, live_latents

TWIN = 0.7
"""Cosine above which two latents are near-duplicates."""
MAX_TOKENS = 65_536
_PER_ROW = 16
"""So many nearest neighbours of each latent are looked at."""
_BLOCK = 1024
_MAX_PAIRS = 2000
_MAX_NODES = 80
_BINS = tuple(n / 50 for n in range(51))
_SIGNED = tuple(n / 25 - 1 for n in range(51))


class DecoderCosines(Analysis):
    """Cosines of the directions of live latents: nearest and mean of each, of all pairs, and how far the tail goes;
    each beside what the SAE began with, and beside the reference's where there is one."""

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        live = live_latents(sae, context)
        beginning, name, note = initial_directions(sae, context, training)
        rows = sae.decoder_directions().detach().cpu()
        found = {"this SAE": decoder_cosines(rows[live]), name: decoder_cosines(beginning[live])}
        if self.reference is not None:
            other = self.reference.sae
            theirs = other.decoder_directions().detach().cpu()[live_latents(other, context)]
            found[self.reference.label] = decoder_cosines(theirs)
        values: dict[str, float] = {"live_latents": len(live), "dead_latents": sae.config.d_sae - len(live)}
        series = {}
        for key, one in found.items():
            key = key.replace(" ", "_")
            values[f"mean_nearest/{key}"] = float(one.max_per_row.mean())
            values[f"largest/{key}"] = float(one.max_per_row.max())
            values[f"mean/{key}"] = one.mean_abs
            values[f"quantile_999/{key}"] = one.quantile_999
            series[f"nearest/{key}"] = one.max_per_row.tolist()
            series[f"mean/{key}"] = one.mean_per_row.tolist()
        series["latent"] = live.double().tolist()
        turned = None
        if begins_at_its_seed(training) and name == "its initialisation":
            turned = F.cosine_similarity(rows.float(), beginning, dim=1)[live].clamp(-1, 1)
            values["cosine_to_own_beginning"] = float(turned.mean())
            series["cosine_to_own_beginning"] = turned.tolist()
        return AnalysisResult(
            values=values,
            series=series,
            figures=(_cosine_figure(found, len(live), turned),),
            notes=(note,),
        )


def _cosine_figure(found: dict[str, CosineDistribution], n: int, turned: Tensor | None) -> Figure:
    top = max(float(one.mean_per_row.max()) for one in found.values())
    fine = [1.05 * top * i / 40 for i in range(41)]
    return Figure(
        name="decoder_cosines",
        title="How near do the directions of latents lie?",
        columns=2 if turned is None else 3,
        panels=(
            Panel(
                marks=[
                    Histogram(label=key, edges=_BINS, counts=histogram(one.max_per_row, _BINS))
                    for key, one in found.items()
                ],
                title="To the nearest other latent",
                x_label="largest |cosine|",
                y_label="latents",
            ),
            Panel(
                marks=[
                    Histogram(label=key, edges=fine, counts=histogram(one.mean_per_row, fine))
                    for key, one in found.items()
                ],
                title="To all other latents",
                x_label="mean |cosine|",
                y_label="latents",
            ),
            Panel(
                marks=[_pairs(key, one) for key, one in found.items()],
                title="All pairs of latents",
                x_label="cosine",
                y_label="pairs",
                y_scale="log",
            ),
            Panel(
                marks=[_tail(key, one, key != "this SAE") for key, one in found.items()],
                title="The tail: pairs at least so near",
                x_label="|cosine|",
                y_label="share of pairs",
                y_scale="log",
            ),
            *_turned(turned),
        ),
        caption=f"{n} latents that fire on held-out tokens, and as many rows of the decoder as it is before training.",
    )


def _turned(turned: Tensor | None) -> list[Panel]:
    """How far training has turned each row from where it began."""
    if turned is None:
        return []
    bars = Histogram(edges=_SIGNED, counts=histogram(turned, _SIGNED))
    title = f"From where they began: mean cosine {float(turned.mean()):.2f}"
    return [Panel(marks=[bars], title=title, x_label="cosine to a row's own beginning", y_label="latents")]


def _pairs(name: str, one: CosineDistribution) -> Histogram:
    counts = one.counts.view(100, -1).sum(1)
    return Histogram(label=name, edges=one.edges[:: len(one.counts) // 100].tolist(), counts=counts.tolist())


def _tail(name: str, one: CosineDistribution, dashed: bool) -> Line:
    half = len(one.counts) // 2
    absolute = (one.counts[:half].flip(0) + one.counts[half:]).view(100, -1).sum(1)
    share = absolute.flip(0).cumsum(0).flip(0) / absolute.sum()
    x = [i / 100 for i in range(100)]
    return Line(label=name, x=x, y=[s if s > 0 else None for s in share.tolist()], dashed=dashed)


@dataclass(frozen=True, slots=True)
class Near:
    """The near pairs of some rows."""

    nearest: Tensor
    """[m]: each row's largest cosine to another."""
    first: Tensor
    """[p] rows, and"""
    second: Tensor
    """[p] > first, of the pairs above the threshold, the nearest first."""
    cosine: Tensor
    """[p]."""


def near_pairs(rows: Tensor, threshold: float = TWIN) -> Near:
    """Pairs of rows [m, d] of cosine above `threshold`, among each row's 16 nearest: opposite rows are none."""
    unit = F.normalize(rows.float(), dim=1)
    m = len(unit)
    nearest, keys, values = torch.empty(m), [], []
    for start in range(0, m, _BLOCK):
        cosines = unit[start : start + _BLOCK] @ unit.t()
        own = torch.arange(len(cosines))
        cosines[own, own + start] = -2.0
        top = cosines.topk(min(_PER_ROW, m - 1), dim=1)
        nearest[start : start + _BLOCK] = top.values[:, 0]
        at, place = (top.values > threshold).nonzero(as_tuple=True)
        a, b = at + start, top.indices[at, place]
        keys.append(torch.minimum(a, b) * m + torch.maximum(a, b))
        values.append(top.values[at, place])
    key, order = torch.cat(keys).sort(stable=True)
    fresh = torch.ones_like(key, dtype=torch.bool)
    fresh[1:] = key[1:] != key[:-1]
    key, cosine = key[fresh], torch.cat(values)[order][fresh].clamp(-1, 1)
    order = cosine.argsort(descending=True, stable=True)
    return Near(nearest.clamp(-1, 1), key[order] // m, key[order] % m, cosine[order])


def twin_clusters(near: Near) -> list[list[int]]:
    """Rows that hang together through near pairs, the largest cluster first; rows without one are in none."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    m = len(near.nearest)
    ends = (near.first.numpy(), near.second.numpy())
    _, label = connected_components(
        coo_array((torch.ones(len(near.first)).numpy(), ends), shape=(m, m)), directed=False
    )
    groups: dict[int, list[int]] = {}
    for row in torch.cat([near.first, near.second]).unique().tolist():
        groups.setdefault(int(label[row]), []).append(row)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))


def shared_firing(codes: RaggedCodes, first: Tensor, second: Tensor) -> Tensor:
    """[p]: tokens on which both latents fire over tokens on which either does; 0 where neither fires."""
    wanted = set(torch.cat([first, second]).tolist())
    tokens: dict[int, set[int]] = {latent: set() for latent in wanted}
    kept = torch.isin(codes.latents, torch.tensor(sorted(wanted), dtype=torch.int64)) & (codes.values > 0)
    for latent, token in zip(codes.latents[kept].tolist(), token_of_slot(codes)[kept].tolist(), strict=True):
        tokens[latent].add(token)
    shares = []
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        either = len(tokens[a] | tokens[b])
        shares.append(len(tokens[a] & tokens[b]) / either if either else 0.0)
    return torch.tensor(shares)


class Splitting(Analysis):
    """Near-duplicate latents: how many, in what clusters, and whether twins share their tokens or split them."""

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        live = live_latents(sae, context)
        near = near_pairs(sae.decoder_directions().detach().cpu()[live])
        beginning, name, drawn = initial_directions(sae, context, training)
        before = near_pairs(beginning[live]).nearest
        clusters = twin_clusters(near)
        codes = held_out_codes(sae, context, MAX_TOKENS)
        a, b = live[near.first[:_MAX_PAIRS]], live[near.second[:_MAX_PAIRS]]
        together = shared_firing(codes, a, b)
        others = live[torch.randint(len(live), (2, len(a)), generator=context.generator("other pairs"))]
        apart = others[0] != others[1]
        by_chance = shared_firing(codes, others[0][apart], others[1][apart])
        values = {
            "live_latents": len(live),
            "share_with_near_duplicate": float((near.nearest > TWIN).double().mean()),
            f"share_with_near_duplicate/{name.replace(' ', '_')}": float((before > TWIN).double().mean()),
            "near_pairs": len(near.cosine),
            "twin_clusters": len(clusters),
            "largest_cluster": len(clusters[0]) if clusters else 0,
            "superfluous_share": sum(len(group) - 1 for group in clusters) / len(live),
            "shared_firing_of_twins": float(together.mean()) if len(together) else None,
            "shared_firing_of_random_pairs": float(by_chance.mean()) if len(by_chance) else None,
        }
        notes = [f"Near-duplicates have a cosine above {TWIN}. {drawn}"]
        if not clusters:
            notes.append("There are no near-duplicates: no clusters to draw.")
        return AnalysisResult(
            values=values,
            series={"latent": live.double().tolist(), "nearest": near.nearest.tolist()},
            tables={"twins": _twin_table(a, b, near.cosine, together), "clusters": _cluster_table(clusters, live)},
            figures=(_splitting_figure(near, before, name, clusters, live, together, values),),
            notes=notes,
        )


def _twin_table(a: Tensor, b: Tensor, cosine: Tensor, together: Tensor) -> Table:
    rows = [list(row) for row in zip(*(v.tolist() for v in (a, b, cosine[: len(a)], together)), strict=True)]
    return Table(columns=("latent", "twin", "cosine", "shared_firing"), rows=rows)


def _cluster_table(clusters: list[list[int]], live: Tensor) -> Table:
    rows = [[len(group), " ".join(str(int(live[row])) for row in group)] for group in clusters]
    return Table(columns=("size", "latents"), rows=rows)


def _splitting_figure(
    near: Near, before: Tensor, name: str, clusters: list[list[int]], live: Tensor, together: Tensor, values: dict
) -> Figure:
    levels = [i / 50 for i in range(10, 51)]
    sizes = [len(group) for group in clusters]
    names = ["2", "3", "4", "5", "6 or more"]
    heights = [float(sizes.count(n)) for n in range(2, 6)] + [float(sum(size > 5 for size in sizes))]
    panels = [
        Panel(
            marks=[
                Line(label="this SAE", x=levels, y=[float((near.nearest > c).double().mean()) for c in levels]),
                Line(label=name, x=levels, y=[float((before > c).double().mean()) for c in levels], dashed=True),
            ],
            title="Latents with a neighbour nearer than ...",
            x_label="cosine",
            y_label="share of live latents",
        ),
    ]
    caption = f"{len(live)} live latents, {len(near.cosine)} pairs of cosine above {TWIN}."
    if clusters:
        caption += (
            " Twins that fire on the same tokens repeat one feature, twins that do not have split it. The grey line is "
            "the mean of random pairs."
        )
        panels += [
            Panel(
                marks=[Bars(categories=names, heights=heights)],
                title=f"Clusters of latents linked by cosines above {TWIN}",
                x_label="latents in the cluster",
                y_label="clusters",
            ),
            Panel(
                marks=[_twin_graph(near, clusters, live)],
                title="The largest clusters (numbers are latents)",
            ),
            Panel(
                marks=[Scatter(x=near.cosine[: len(together)].tolist(), y=together.tolist())],
                title="Do twins fire on the same tokens?",
                x_label="cosine of the pair",
                y_label="tokens of both / of either",
                y_reference=values["shared_firing_of_random_pairs"],
            ),
        ]
    return Figure(
        name="splitting",
        title="Do latents repeat each other?",
        panels=panels,
        caption=caption,
    )


def _twin_graph(near: Near, clusters: list[list[int]], live: Tensor) -> Graph:
    shown: list[int] = []
    groups: list[int] = []
    for number, group in enumerate(clusters):
        if shown and len(shown) + len(group) > _MAX_NODES:
            break
        shown += group[:_MAX_NODES]
        groups += [number] * len(group[:_MAX_NODES])
    place = {row: number for number, row in enumerate(shown)}
    edges = [
        (place[a], place[b], c)
        for a, b, c in zip(near.first.tolist(), near.second.tolist(), near.cosine.tolist(), strict=True)
        if a in place and b in place
    ]
    return Graph(nodes=[str(int(live[row])) for row in shown], edges=edges, groups=groups)
