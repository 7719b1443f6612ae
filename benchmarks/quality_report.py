"""The figures of quality_vs_peers as a table and as JSON. Loads no torch."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.report.tables import render
from harness.report.text import format_value
from harness.results.statistics import Difference, difference, mean_interval

HEADERS = ("k", "trained by", "codes", "lr", "L0", "explained variance", "ours - this [95 %]", "dead", "CPU s/step")
_CODES = {"top_k": "k largest", "threshold": "its threshold"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A way to train with the peer."""

    label: str
    lr: float | None
    """None: the peer's own rule, 2e-4 / sqrt(d_sae / 2^14)."""
    dead_after_tokens: int | None
    """None: the peer's own, 10 million."""
    codes: tuple[str, ...]
    """How its SAE encodes when measured: `top_k` as in training, `threshold` by its learned inference threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One SAE, measured on the held-out activations."""

    label: str
    codes: str
    k: int
    seed: int
    explained_variance: float
    """1 - fvu about the per-dimension mean, in float64."""
    l0: float
    dead_latent_fraction: float
    """Share of latents that fire on no held-out token."""
    cpu_seconds_per_step: float
    wall_seconds_per_step: float
    config: dict[str, Any] = field(default_factory=dict)
    """As the trainer tells it."""


def row_differences(runs: Sequence[Run], ours: str) -> dict[tuple[int, str, str], Difference]:
    """Explained variance of ours minus each other row's, paired by seed: (k, label, codes) -> difference."""
    grouped = _grouped(runs)
    found = {}
    for (k, label, codes), group in grouped.items():
        if label != ours:
            mine = {seed: run.explained_variance for seed, run in grouped[k, ours, "top_k"].items()}
            found[k, label, codes] = difference(mine, {s: run.explained_variance for s, run in group.items()})
    return found


def table(figures: Mapping[str, Any], fmt: str = "plain") -> str:
    """The protocol on one line, the table, and how to read it."""
    runs = [Run(**run) for run in figures["runs"]]
    ours, suite = figures["ours"]["label"], figures["suite"]
    differences, grouped = row_differences(runs, ours), _grouped(runs)
    rows = []
    for (k, label, codes), group in sorted(grouped.items(), key=lambda item: item[0][0]):
        reference = [run.cpu_seconds_per_step for run in grouped[k, ours, "top_k"].values()]
        own = [run.cpu_seconds_per_step for run in group.values()]
        gap = differences.get((k, label, codes))
        lr = figures["ours"]["lr"] if label == ours else next(iter(group.values())).config["lr"]
        rows.append(
            [
                str(k),
                label,
                _CODES[codes],
                f"{lr:.2g}",
                f"{_mean(group, 'l0'):.2f}",
                _interval([run.explained_variance for run in group.values()]),
                "-" if gap is None else _gap(gap),
                f"{100 * _mean(group, 'dead_latent_fraction'):.1f} %",
                f"x {sum(own) / sum(reference):.2f}",
            ]
        )
    protocol = (
        f"suite {suite['name']}, {suite['hookpoint']}, d_sae {suite['d_sae']}, {suite['n_tokens']} tokens "
        f"({suite['n_steps']} steps of {suite['batch_size']}), seeds {', '.join(map(str, suite['seeds']))}: "
        f"{suite['claim']}"
    )
    return "\n\n".join([protocol, render(rows, HEADERS, fmt), "\n".join(f"- {note}" for note in _notes(figures, runs))])


def report(figures: Mapping[str, Any]) -> str:
    """Everything as JSON: the figures of every seed, the rows' summaries, versions and machine."""
    runs = [Run(**run) for run in figures["runs"]]
    differences = row_differences(runs, figures["ours"]["label"])
    rows = []
    for (k, label, codes), group in _grouped(runs).items():
        interval = mean_interval([run.explained_variance for run in group.values()])
        row: dict[str, Any] = {"k": k, "label": label, "codes": codes, "n_seeds": interval.n}
        row["explained_variance"] = {"mean": interval.mean, "half_width": interval.half_width}
        if gap := differences.get((k, label, codes)):
            row["ours_minus_this"] = {"estimate": gap.estimate, "low": gap.low, "high": gap.high, "method": gap.method}
        rows.append(row)
    data = {
        "kind": "sae-harness/quality-vs-peers",
        "version": 1,
        "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **figures,
        "machine": machine(),
        "rows": rows,
    }
    return json.dumps(data, indent=1)


def machine() -> dict[str, Any]:
    """The hardware in words."""
    return {"cpu": cpu_model(), "cores": os.cpu_count(), "platform": f"{platform.system()} {platform.machine()}"}


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name; what Python knows of it where there is no /proc/cpuinfo."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _notes(figures: Mapping[str, Any], runs: Sequence[Run]) -> list[str]:
    config = next(run.config for run in runs if run.config)
    options = figures["ours"]["options"]
    return [
        "Both sides train on the same batches in the same order, and are measured by the same function on the same "
        "held-out activations (explained variance about the per-dimension mean, float64).",
        "± and [ ] are 95 % intervals over seeds; the difference is paired by seed, which fixes the stream but not the "
        "initial weights, as each side draws its own.",
        f"The peer's class, with its own learning rate ({_peer_lr(runs):.2g}: 2e-4 / sqrt(d_sae / 2^14)) and with ours "
        f"({options['lr']:.2g}): what is left in the latter is not the learning rate.",
        f"All peer rows warm up over {config['warmup_steps']} steps and decay from step {config['decay_start']}, as "
        "ours do. Its default warm-up and threshold start (1000 steps) are cut where they would outlast the warm-up of "
        "this budget, and it has no decay by default.",
        "The peer calls a latent dead after 10 million tokens; beyond the budget, its auxiliary loss never acts. In "
        f"the last row of each k it is given ours ({figures['peers'][-1]['dead_after_tokens']} tokens).",
        "dead: latents that fire on no held-out token. CPU s/step: CPU seconds per training step, reading the batch "
        f"included, as a multiple of ours; {figures['threads']} thread(s), run in turns on {machine()['cpu']}.",
    ]


def _peer_lr(runs: Sequence[Run]) -> float:
    return min(run.config["lr"] for run in runs if run.label == "dictionary_learning")


def _grouped(runs: Sequence[Run]) -> dict[tuple[int, str, str], dict[int, Run]]:
    """(k, label, codes) -> seed -> run, in the order of `runs`."""
    grouped: dict[tuple[int, str, str], dict[int, Run]] = {}
    for run in runs:
        grouped.setdefault((run.k, run.label, run.codes), {})[run.seed] = run
    return grouped


def _mean(group: Mapping[int, Run], name: str) -> float:
    return sum(getattr(run, name) for run in group.values()) / len(group)


def _interval(values: Sequence[float]) -> str:
    interval = mean_interval(values)
    return format_value(interval.mean, interval.half_width)


def _gap(gap: Difference) -> str:
    """Five decimals whatever the noise: rounded to its noise, a small deficit of ours would read +0.000."""
    text = f"{gap.estimate:+.5f}"
    return text if gap.low is None or gap.high is None else f"{text} [{gap.low:+.5f}, {gap.high:+.5f}]"
