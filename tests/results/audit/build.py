"""Evidence by hand: sound in all but what a test says."""

from __future__ import annotations

from dataclasses import replace
from zlib import crc32

from harness.interfaces.audit import AuditHit
from harness.results.audit.evidence import Evaluation, Evidence, Training
from harness.results.audit.rule import Finding
from harness.results.audit.runner import RULES, audit
from harness.results.audit.tolerances import DEFAULT

PROTOCOL = {
    "suite": "tiny",
    "lm": "lm",
    "lm_sha256": "a" * 64,
    "tokenizer_sha256": "b" * 64,
    "hookpoint": "blocks.1.hook_resid_post",
    "d_in": 192,
    "d_sae": 1536,
    "n_tokens": 524288,
    "batch_size": 1024,
    "train_data": "c" * 64,
    "eval_data": "d" * 64,
    "seq_len": 128,
    "store_dtype": "float32",
    "stream_seed": 0,
    "evaluation_seed": 0,
}


def evaluation(name="core", metrics=None, **fields) -> Evaluation:
    """An evaluation; `sae` and `config` are what it says of the SAE and its settings."""
    return Evaluation(name=name, key=fields.pop("key", name), metrics=metrics or {}, **fields)


def core(l0=32.0, **metrics) -> Evaluation:
    """A core evaluation with its L0."""
    return evaluation("core", {"l0": l0, **metrics})


def combined(
    name="study/run_1.json", *evaluations, study="study", group="lm hook", training=None, **fields
) -> Evidence:
    """A combined record."""
    return Evidence(
        name=name,
        kind="combined",
        study=study,
        group=group,
        method=name.rpartition("/")[2].removesuffix(".json"),
        identity=fields.pop("identity", name),
        training=training,
        evaluations={e.name: e for e in evaluations},
        **fields,
    )


def saebench(name="a_core.json", found=None, *, key="release/topk", method="topk", **fields) -> Evidence:
    """One SAEBench file."""
    found = found or core()
    return Evidence(
        name=name,
        kind="saebench",
        study="lm hook",
        group=fields.pop("group", "lm hook"),
        method=method,
        identity=fields.pop("identity", key),
        key=key,
        evaluations={found.name: found},
        **fields,
    )


def ours(
    name="topk/0.json", *evaluations, method="topk", trainer="topk", protocol=None, training=None, **fields
) -> Evidence:
    """A record of the harness."""
    told = {**PROTOCOL, **(protocol or {})}
    loss = 12 + crc32(name.encode()) / 2**33
    changes = {"label": method, "trainer": trainer, "loss": loss, **(training or {})}
    return Evidence(
        name=name,
        kind="harness",
        study=told["suite"],
        group=told["suite"],
        method=method,
        identity=fields.pop("identity", name),
        key=fields.pop("key", name),
        training=replace(TRAINED, **changes),
        evaluations={e.name: e for e in (evaluations or (core(),))},
        lm=told["lm"],
        hookpoint=told["hookpoint"],
        d_in=told["d_in"],
        d_sae=told["d_sae"],
        protocol=told,
        machine=fields.pop("machine", "cpu"),
        **fields,
    )


TRAINED = Training(
    trainer="topk",
    label="topk",
    settings={"lr": 0.001, "sae.k": 32},
    steps=512,
    tokens=524288,
    budget=524288,
    batch_size=1024,
    loss=12.5,
    terms={"sse": 12.5},
    lr=0.001,
    seed=0,
    target_l0=32.0,
    dead=3,
    wall_seconds=20.0,
    peak_memory_mib=900.0,
)


def told(settings=None, *, trainer="CustomTrainer", label="custom", loss=100.0, final=None, **fields) -> Training:
    """The training report of a combined record."""
    settings = {"lr": 0.001, **(settings or {})}
    fields = {"steps": 4882, "lr": settings["lr"], **fields}
    return Training(trainer=trainer, label=label, settings=settings, final=final or {}, loss=loss, **fields)


def found(rule: str, *records: Evidence, tolerances=DEFAULT) -> list[Finding]:
    """The findings of one rule."""
    [wanted] = [r for r in RULES if r.id == rule]
    return list(audit(records, tolerances, [wanted]))


def names(findings: list[Finding]) -> list[tuple[str, str]]:
    """(record, evaluation) of findings."""
    return [(f.record, f.evaluation) for f in findings]


def hit(record: str, **fields) -> AuditHit:
    """A hit as a plugin yields it."""
    return AuditHit(record=record, field="x", evidence=(("x", "1"),), **fields)
