"""docs/performance.md from the results: nothing on it that is not in them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.report.tables import render as table

from .sections.core import SAE_BENCH
from .sections.grid import ALONE, whole_seconds
from .sections.training import DICTIONARY_LEARNING, LIMIT, SAE_LENS, SPARSIFY, limit_shares
from .sizes import Size
from .store import of_section
from .summary import Spread, paragraph, ratios
from .team import OURS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
FIGURE = "performance-growth-{device}.png"

SECTIONS = {
    "training": (
        "One training step",
        "Every side trains by its own trainer, ours through the plugin interface, from the same weights on the same "
        "float32 batches with the same constant learning rate. `error` is the squared error per token on the first "
        "batch, measured by one formula on all sides, with the relative difference to ours: before the first step, "
        "and after three. The limits are the time that the matrix products alone would take at torch's speed, measured "
        "in the same round: `dense` six products, `sparse` the encoder's product and four on active pairs only. "
        "Where torch's library leaves speed unused (MKL on processors of other makers than Intel), ours makes the "
        "encoder's product with numpy's, and its share is of a limit that it could pass. "
        "sae_lens and sparsify do not train by quite the same rule: sae_lens learns decoder norms where the others "
        "project and renormalise, sparsify does not clip gradients, and its default optimiser is signum. Where L0 is "
        "not set by k, weights are shifted so that L0 is as said on all sides; the column shows it before the first "
        "step and after the last. batch_topk is measured as it is used: ours by its threshold from the first step on, "
        "which lags behind weights that move fast; the others begin theirs later.",
    ),
    "encode": (
        "Encoding",
        "TopK codes of a batch. Ours and sparsify's come as values and indices, the others' as a dense tensor. `codes "
        "differ by`: the largest difference to ours, relative to the largest code.",
    ),
    "startup": (
        "Start-up",
        "New processes, files in memory. The commands of the harness load torch only where they compute.",
    ),
    "core": (
        "Core evaluation of one more SAE",
        "Both sides evaluate the same SAE of the same LM on the same sequences. Ours has evaluated another SAE before: "
        "what does not depend on the SAE is then known. sae_bench's runs as it does for each SAE, without the "
        "weight-based metrics, which ours does not give; its LM and data set are loaded before. Every round has "
        "another SAE; the figures are of the last.",
    ),
    "grid": (
        "A whole run of twelve SAEs",
        "From text to saved SAEs on an LM of GPT-2 small's shape with random weights, at a shortened budget. Ours "
        "captures once and trains all on one stream. sae_lens runs `LanguageModelSAETrainingRunner` for each SAE, "
        "with its default dense activations. sparsify's `Trainer` takes several seeds of one k on one pass of the LM; "
        "how long it takes where they are trained apart is multiplied from one run a k. Loading the LM is counted for "
        "each run, importing libraries is not. sae_lens' activation store hands batches on without mixing: with its "
        "default it would run the LM on half a buffer more than it trains on.",
    ),
    "capture": (
        "From tokens to activations",
        "The same sequences through the same LM. `activations differ by`: relative to the largest activation.",
    ),
    "probing": ("Sparse probing of one more SAE", ""),
    "growth": ("Growth", "A TopK step of ours and of the fastest peer, one thing changed at a time."),
}
"""Sections in the order of the page, and of measuring: title and introduction."""

_MARK = "<!-- Written by benchmarks/speed.py from benchmarks/results/: measure again, or edit there. -->"
_INTRODUCTION = """\
How fast the harness is beside its peers, measured by `make bench`; [benchmarks/README.md](../benchmarks/README.md) says
how. Sides run in turns, block by block, on the same threads; the others wait. Figures are medians over rounds
with the least and the most in brackets; `times ours` is the median of the rounds' own ratios, above 1 where ours is
faster. How busy other processes kept the machine stands beside each table: where it is much above 0, believe ratios
rather than times."""


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page from the results of each device (`cpu`, `cuda`)."""
    parts = [_MARK, "# Performance", _INTRODUCTION]
    for device, data in results.items():
        parts += list(_device(device, data, heading=len(results) > 1))
    return "\n\n".join(parts) + "\n"


def _device(device: str, data: Mapping[str, Any], *, heading: bool) -> Iterator[str]:
    if heading:
        yield f"# On {'the CPU' if device == 'cpu' else 'a GPU'}"
    hardware = ", ".join(f"{name} {value}" for name, value in data["machine"].items())
    yield f"Machine: {hardware}."
    glance = list(at_a_glance(data))
    if glance:
        yield "## At a glance"
        yield table(glance, ("what", "size", "beside", ""), "github")
    for name, (title, introduction) in SECTIONS.items():
        parts = of_section(data, name)
        if not parts:
            continue
        yield f"## {title}"
        if introduction:
            yield paragraph(introduction)
        if name == "growth":
            yield f"![Growth of a TopK step]({FIGURE.format(device=device)})"
        yield importlib.import_module(f".sections.{name}", __package__).render(parts)
    versions = _versions(data)
    if versions:
        yield "## Versions"
        yield table(versions, ("distribution", "version"), "github")


def at_a_glance(data: Mapping[str, Any]) -> Iterator[list[str]]:
    """The figures that matter most, of those that were measured."""
    for name, part in of_section(data, "training").items():
        yield from _training_glance(name, part)
    for name, part in of_section(data, "grid").items():
        ours = whole_seconds(part["sides"][OURS], True)
        for peer in (SAE_LENS, SPARSIFY, ALONE):
            if peer in part["sides"]:
                ratio = whole_seconds(part["sides"][peer], False) / ours
                yield ["twelve SAEs from text to checkpoints", name, peer, f"{ratio:.1f} times our time"]
    for section, what in (("core", "core of one more SAE"), ("probing", "sparse probing of one more SAE")):
        for name, part in of_section(data, section).items():
            if SAE_BENCH in part["sides"]:
                times = ratios(part["sides"][SAE_BENCH]["seconds"], part["sides"][OURS]["seconds"])
                yield [what, name, SAE_BENCH, f"{Spread.of(times).median:.1f} times our time"]
    for part in of_section(data, "startup").values():
        for command, side in part["sides"].items():
            if command.startswith("sae-harness"):
                yield [f"`{command}`", "", "", f"{Spread.of(side['seconds']).median:.2f} s"]


def _training_glance(name: str, part: Mapping[str, Any]) -> Iterator[list[str]]:
    size, sides = Size(**part["size"]), part["sides"]
    what = f"{part['kind']} training step"
    peers = (DICTIONARY_LEARNING, f"{SAE_LENS}, sparse", f"{SPARSIFY}, signum", f"{SPARSIFY}, adam")
    for peer in peers:
        if peer in sides:
            median = Spread.of(ratios(sides[peer]["ms"], sides[OURS]["ms"])).median
            yield [what, name.partition("/")[0], peer, f"{median:.1f} times our time"]
    sparse, _ = limit_shares(sides[OURS]["ms"], part[LIMIT]["harmonic_mean"], size, part["l0"])
    yield [what, name.partition("/")[0], "the sparse limit", f"we reach {Spread.of(sparse).median:.2f} of it"]


def _versions(data: Mapping[str, Any]) -> list[list[str]]:
    found: dict[str, set[str]] = {}
    for part in data["parts"].values():
        for side in [*part.get("sides", {}).values(), part]:
            for distribution, version in side.get("versions", {}).items():
                found.setdefault(distribution, set()).add(version)
    return [[name, ", ".join(sorted(versions))] for name, versions in sorted(found.items())]
