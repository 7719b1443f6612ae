"""Sparse probing of one more SAE: ours and sae_bench's on the same labelled passages of the embedded corpus."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.data.text_source import package_folder
from harness.report.tables import render as table

from ..lms import LMS, SEQ_LEN, BenchmarkLM
from ..plan import Parts, Plan
from ..rounds import columns, interleave
from ..summary import Spread, paragraph, ratios, significant
from ..team import OURS, Team
from .core import SAE_BENCH, EvaluationSide, evaluation_jobs, setup_job
from .training import measured

EVALUATOR = "sparse_probing"
CLASSES = ("wordnet", "sotu", "python-docs", "postgresql-docs")
"""Collections of the embedded text: the label of a passage is where it comes from."""
N_TRAIN, N_TEST, CHARACTERS = 300, 100, 700
COLLECTION = "benchmark"
OPTIONS = {
    "collection": COLLECTION,
    "n_train": 400,
    "n_validation": 200,
    "n_test": 200,
    "max_tokens": SEQ_LEN,
    "last_tokens": SEQ_LEN,
}
"""Of the 400 passages a class, ours trains on half, and keeps a quarter each to choose by and to test on."""


def measure(team: Team, plan: Plan) -> Parts:
    """A part for each LM."""
    for name in plan.lms:
        yield f"probing/{name}", _measure(team, plan, LMS[name])


def _measure(team: Team, plan: Plan, lm: BenchmarkLM) -> dict[str, Any]:
    plan.tell(f"probing {lm.name}: setting up")
    texts = str(write_texts(plan.folder))
    ours = team.process(OURS)
    about = ours.run(
        {
            **setup_job(plan, lm, [EVALUATOR]),
            "collections": {COLLECTION: texts},
            "evaluator_options": {EVALUATOR: OPTIONS},
        }
    )
    jobs = evaluation_jobs(plan, lm, about, {"op": "evaluate", "evaluators": [EVALUATOR]})
    sides = [EvaluationSide(OURS, ours, jobs[1:])]
    first = None
    if SAE_BENCH in team.peers:
        theirs = team.process(SAE_BENCH)
        artifacts = plan.folder / "probing-artifacts"
        shutil.rmtree(artifacts, ignore_errors=True)
        setup = {"lm": about["lm"], "seq_len": SEQ_LEN, "artifacts": str(artifacts), "device": plan.device}
        theirs.run({"op": "probing_setup", "texts": texts, **setup})
        jobs = evaluation_jobs(plan, lm, about, {"op": "probing"})
        first = theirs.run(jobs[0])["seconds"]
        sides.append(EvaluationSide(SAE_BENCH, theirs, jobs[1:]))
    plan.tell(f"probing {lm.name}")
    blocks = interleave(sides, plan.rounds, 0.0, team.pids)
    found = {
        side.name: {**columns(blocks[side.name]), "metrics": side.metrics, "versions": side.process.versions}
        for side in sides
    }
    team.dismiss()
    return {
        "lm": lm.note,
        "d_sae": lm.d_sae,
        "k": lm.k,
        "first_seconds": {OURS: about["first_seconds"], SAE_BENCH: first},
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


_HEADERS = ("side", "seconds", "CPU s", "times ours", "first SAE, s", "accuracy by its k largest latents")


def render(parts: Mapping[str, Any]) -> str:
    """A table for each LM."""
    return "\n\n".join(_render_part(name, part) for name, part in parts.items())


def _render_part(name: str, part: Mapping[str, Any]) -> str:
    sides = part["sides"]
    head = (
        f"**{name}** ({part['lm']}), TopK with d_sae {part['d_sae']} and k {part['k']}: {len(CLASSES)} classes of "
        f"{N_TRAIN + N_TEST} passages of the embedded text, each class against the rest. sae_bench trains on {N_TRAIN} "
        "of a class, at k 1, 2, 5 and with all latents; ours on 200, with as many again to choose latents, "
        "regularisation and epochs by and to test on, at k 1, 2, 5, 10, 20, 50 and with all, and by the published "
        f"definition as well. {measured(part['measured'], [v for side in sides.values() for v in side['others']])}"
    )
    rows = [
        [
            row,
            Spread.of(side["seconds"]).text(),
            Spread.of(side["cpu_seconds"]).text(),
            "1" if row == OURS else Spread.of(ratios(side["seconds"], sides[OURS]["seconds"])).text(),
            significant(part["first_seconds"][row]),
            _accuracies(side["metrics"]),
        ]
        for row, side in sides.items()
    ]
    return f"{paragraph(head)}\n\n{table(rows, _HEADERS, 'github')}"


def _accuracies(metrics: Mapping[str, float]) -> str:
    """sae_bench's `sae_top_K_test_accuracy` and ours by its definition, as `k = K: value`."""
    ours = "saebench_sparse_probing_top"
    found = {name.split("_")[2]: value for name, value in metrics.items() if name.startswith("sae_top_")}
    found |= {n.removeprefix(ours).split("_")[0]: value for n, value in metrics.items() if n.startswith(ours)}
    return ", ".join(f"k = {k}: {significant(value)}" for k, value in found.items())
