"""Core evaluation of one more SAE: ours with the LM's clean losses at hand, beside sae_bench's on the same SAE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peer_environment import PeerProcess

from harness.plugins import load_catalogue
from harness.report.tables import render as table

from ..lms import LMS, SEQ_LEN, TEXT, BenchmarkLM
from ..plan import Parts, Plan
from ..rounds import columns, interleave
from ..summary import Spread, paragraph, ratios, significant
from ..team import OURS, Team
from .training import measured

SAE_BENCH = "sae_bench"
EVALUATORS = ("core", "behaviour")
"""Ours that together give what sae_bench's core gives."""
BATCH_SEQUENCES = 16
N_BATCHES = 10
"""sae_bench's defaults: 10 batches of 16 sequences."""


@dataclass
class EvaluationSide:
    """One evaluation a block, each of the next SAE: nothing of an earlier one can be reused."""

    name: str
    process: PeerProcess
    jobs: Sequence[Mapping[str, Any]]
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the SAE evaluated last."""
    done: int = 0

    def block(self, seconds: float) -> dict[str, float]:
        """Evaluate the next SAE."""
        reply = self.process.run(self.jobs[self.done])
        self.done += 1
        self.metrics = reply["metrics"]
        return {"seconds": reply["seconds"], "cpu_seconds": reply["cpu_seconds"]}


def measure(team: Team, plan: Plan) -> Parts:
    """A part for each LM."""
    for name in plan.lms:
        yield f"core/{name}", _measure(team, plan, LMS[name])


def _measure(team: Team, plan: Plan, lm: BenchmarkLM) -> dict[str, Any]:
    plan.tell(f"core {lm.name}: setting up")
    ours = team.process(OURS)
    evaluators = [name for name in EVALUATORS if name in load_catalogue().evaluators]
    about = ours.run(setup_job(plan, lm, evaluators))
    # The first SAE made what the others share.
    sides = [
        EvaluationSide(OURS, ours, evaluation_jobs(plan, lm, about, {"op": "evaluate", "evaluators": evaluators})[1:])
    ]
    if SAE_BENCH in team.peers:
        theirs = team.process(SAE_BENCH)
        shared = {name: about[name] for name in ("lm", "tokens", "d_in")}
        more = {"hookpoint": lm.hookpoint, "batch_sequences": BATCH_SEQUENCES, "device": plan.device}
        theirs.run({"op": "core_setup", **shared, **more})
        sides.append(EvaluationSide(SAE_BENCH, theirs, evaluation_jobs(plan, lm, about, {"op": "core"})[1:]))
    plan.tell(f"core {lm.name}")
    blocks = interleave(sides, plan.rounds, 0.0, team.pids)
    found = {
        side.name: {**columns(blocks[side.name]), "metrics": side.metrics, "versions": side.process.versions}
        for side in sides
    }
    team.dismiss()
    return {
        "lm": lm.note,
        "hookpoint": lm.hookpoint,
        "d_in": about["d_in"],
        "d_sae": lm.d_sae,
        "k": lm.k,
        "evaluators": evaluators,
        "sequences": about["sequences"],
        "seq_len": SEQ_LEN,
        "counted": about["counted"],
        "tokens_a_batch": BATCH_SEQUENCES * SEQ_LEN,
        "first_seconds": about["first_seconds"],
        "sides": found,
        "measured": plan.stamp(),
    }


def setup_job(plan: Plan, lm: BenchmarkLM, evaluators: Sequence[str]) -> dict[str, Any]:
    """Our side's job: SAEs trained for 32 steps, one more than there are rounds."""
    batch = 1024
    return {
        "op": "evaluation_setup",
        "lm": lm.source,
        "text": TEXT,
        "seq_len": SEQ_LEN,
        "n_train_tokens": 8 * batch,
        "n_eval_sequences": BATCH_SEQUENCES * N_BATCHES,
        "hookpoint": lm.hookpoint,
        "d_sae": lm.d_sae,
        "l0_grid": [lm.k],
        "n_seeds": plan.rounds + 1,
        "n_tokens": 32 * batch,
        "batch": batch,
        "evaluators": list(evaluators),
        "cache": str(plan.folder / "cache"),
        "folder": str(plan.folder),
        "device": plan.device,
    }


def evaluation_jobs(
    plan: Plan, lm: BenchmarkLM, about: Mapping[str, Any], more: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """A job for each SAE that our side has trained."""
    shared = {"lm": about["lm"], "layer": lm.layer, "d_in": about["d_in"], "d_sae": lm.d_sae, "k": lm.k}
    return [
        {**shared, **more, "index": number, "weights": file, "device": plan.device}
        for number, file in enumerate(about["weights"])
    ]


_SAME = (
    # ours, theirs, note
    ("l0", "l0", ""),
    ("dead_latent_fraction", "dead_latent_fraction", "theirs as the share of latents of density 0"),
    ("cosine", "cossim", ""),
    ("l2_ratio", "l2_ratio", ""),
    ("relative_reconstruction_bias", "relative_reconstruction_bias", "theirs is a mean of batches' ratios"),
    ("ce_loss_recovered", "ce_loss_score", ""),
    ("kl_div_recovered", "kl_div_score", "theirs counts the last token of a sequence, which predicts nothing"),
    ("explained_variance", "explained_variance_legacy", "theirs is a mean of tokens' ratios, about the batch's mean"),
    ("explained_variance", "explained_variance", "theirs subtracts the mean of x², squared, in place of the mean"),
)
"""Metrics that both give, with what is different in their definition."""


def figures(part: Mapping[str, Any]) -> list[list[str]]:
    """Rows of both sides' figures for one SAE, with the relative difference."""
    ours, theirs = part["sides"][OURS]["metrics"], part["sides"][SAE_BENCH]["metrics"]
    rows = [_pair(a, ours[a], b, theirs[b], note) for a, b, note in _SAME if a in ours and b in theirs]
    scaled = theirs["mse"] * part["tokens_a_batch"] / part["d_in"]
    note = "theirs times the tokens of a batch, by which it divides, over d_in, by which it does not"
    return [*rows, _pair("mse", ours["mse"], "mse", scaled, note)]


def _pair(name: str, ours: float, their_name: str, theirs: float, note: str) -> list[str]:
    difference = f"{theirs / ours - 1:+.1e}" if ours else ("0" if theirs == ours else "-")
    return [name, significant(ours, 6), their_name, significant(theirs, 6), difference, note]


_HEADERS = ("side", "seconds", "CPU s", "times ours")
_FIGURES = ("ours", "value", "sae_bench", "value", "difference", "note")


def render(parts: Mapping[str, Any]) -> str:
    """For each LM the times and the figures."""
    return "\n\n".join(_render_part(name, part) for name, part in parts.items())


def _render_part(name: str, part: Mapping[str, Any]) -> str:
    sides = part["sides"]
    head = (
        f"**{name}** ({part['lm']}), {part['hookpoint']}, TopK with d_sae {part['d_sae']} and k {part['k']}, "
        f"{part['sequences']} sequences of {part['seq_len']} tokens. Our first SAE, which makes what all share, took "
        f"{significant(part['first_seconds'])} s. "
        f"{measured(part['measured'], [v for side in sides.values() for v in side['others']])}"
    )
    rows = [
        [
            row,
            Spread.of(side["seconds"]).text(),
            Spread.of(side["cpu_seconds"]).text(),
            "1" if row == OURS else Spread.of(ratios(side["seconds"], sides[OURS]["seconds"])).text(),
        ]
        for row, side in sides.items()
    ]
    text = f"{paragraph(head)}\n\n{table(rows, _HEADERS, 'github')}"
    if SAE_BENCH in sides:
        text += f"\n\n{table(figures(part), _FIGURES, 'github')}"
    return text
