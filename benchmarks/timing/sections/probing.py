"""Sparse probing of one more SAE: sae_bench's on labelled texts of the embedded corpus, and ours where there is one."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.data.text_source import package_folder
from harness.plugins import load_catalogue
from harness.report.tables import render as table

from ..lms import LMS, SEQ_LEN, BenchmarkLM
from ..plan import Parts, Plan
from ..rounds import columns, interleave
from ..summary import Spread, paragraph, significant
from ..team import OURS, Team
from .core import SAE_BENCH, EvaluationSide, evaluation_jobs, setup_job
from .training import measured

EVALUATOR = "sparse_probing"
CLASSES = ("wordnet", "sotu", "python-docs", "postgresql-docs")
"""Collections of the embedded text: the label of a passage is where it comes from."""
N_TRAIN, N_TEST, CHARACTERS = 300, 100, 700


def measure(team: Team, plan: Plan) -> Parts:
    """A part for each LM."""
    for name in plan.lms:
        yield f"probing/{name}", _measure(team, plan, LMS[name])


def _measure(team: Team, plan: Plan, lm: BenchmarkLM) -> dict[str, Any]:
    plan.tell(f"probing {lm.name}: setting up")
    has_ours = EVALUATOR in load_catalogue().evaluators
    ours = team.process(OURS)
    about = ours.run(setup_job(plan, lm, [EVALUATOR if has_ours else "core"]))
    sides = []
    if has_ours:
        jobs = evaluation_jobs(plan, lm, about, {"op": "evaluate", "evaluators": [EVALUATOR]})
        sides.append(EvaluationSide(OURS, ours, jobs[1:]))
    first = None
    if SAE_BENCH in team.peers:
        theirs = team.process(SAE_BENCH)
        artifacts = plan.folder / "probing-artifacts"
        shutil.rmtree(artifacts, ignore_errors=True)
        setup = {"lm": about["lm"], "seq_len": SEQ_LEN, "artifacts": str(artifacts), "device": plan.device}
        theirs.run({"op": "probing_setup", "texts": str(write_texts(plan.folder)), **setup})
        jobs = evaluation_jobs(plan, lm, about, {"op": "probing"})
        first = theirs.run(jobs[0])["seconds"]
        sides.append(EvaluationSide(SAE_BENCH, theirs, jobs[1:]))
    plan.tell(f"probing {lm.name}")
    blocks = interleave(sides, plan.rounds, 0.0, team.pids) if sides else {}
    found = {
        side.name: {**columns(blocks[side.name]), "metrics": side.metrics, "versions": side.process.versions}
        for side in sides
    }
    team.dismiss()
    return {
        "lm": lm.note,
        "d_sae": lm.d_sae,
        "k": lm.k,
        "first_seconds": {SAE_BENCH: first, **({OURS: about["first_seconds"]} if has_ours else {})},
        "sides": found,
        "measured": plan.stamp(),
    }


def write_texts(folder: Path) -> Path:
    """Passages of some collections of the embedded text as JSON: split -> class -> texts."""
    source = package_folder("harness.builtin.tiny")
    assert source is not None, "the embedded text is part of the harness"
    passages: dict[str, list[str]] = {name: [] for name in CLASSES}
    with gzip.open(source / "text.jsonl.gz", "rt", encoding="utf-8") as lines:
        for document in map(json.loads, lines):
            found = passages.get(document["source"])
            if found is not None:
                text = document["text"]
                found += [text[i : i + CHARACTERS] for i in range(0, len(text) - CHARACTERS, CHARACTERS)]
    texts = {
        "train": {name: found[:N_TRAIN] for name, found in passages.items()},
        "test": {name: found[N_TRAIN : N_TRAIN + N_TEST] for name, found in passages.items()},
    }
    path = folder / "probing-texts.json"
    path.write_text(json.dumps(texts))
    return path


_HEADERS = ("side", "seconds", "CPU s", "first SAE, s", "accuracy by its k largest latents")


def render(parts: Mapping[str, Any]) -> str:
    """A table for each LM."""
    return "\n\n".join(_render_part(name, part) for name, part in parts.items())


def _render_part(name: str, part: Mapping[str, Any]) -> str:
    sides = part["sides"]
    head = (
        f"**{name}** ({part['lm']}), TopK with d_sae {part['d_sae']} and k {part['k']}. sae_bench's evaluation on "
        f"{len(CLASSES)} classes of the embedded text, {N_TRAIN} passages each for training and {N_TEST} for testing. "
        f"{measured(part['measured'], [v for side in sides.values() for v in side['others']])}"
    )
    if OURS not in sides:
        head += f" The harness had no evaluator `{EVALUATOR}` when this was measured."
    else:
        head += " Ours runs on tasks of its own, so the times are not to be divided."
    rows = [
        [
            row,
            Spread.of(side["seconds"]).text(),
            Spread.of(side["cpu_seconds"]).text(),
            significant(part["first_seconds"][row]),
            _accuracies(side["metrics"]),
        ]
        for row, side in sides.items()
    ]
    return f"{paragraph(head)}\n\n{table(rows, _HEADERS, 'github')}"


def _accuracies(metrics: Mapping[str, float]) -> str:
    """sae_bench's `sae_top_K_test_accuracy` as `k = K: value`."""
    found = {name.split("_")[2]: value for name, value in metrics.items() if name.startswith("sae_top_")}
    return ", ".join(f"k = {k}: {significant(value)}" for k, value in found.items())
