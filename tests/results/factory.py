"""Synthetic records: whole and valid, with the numbers a test plants."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from harness.interfaces.specs import MetricSpec
from harness.results.record import (
    EvaluationEntry,
    MethodEntry,
    MetricEntry,
    Protocol,
    Provenance,
    Record,
    Taint,
    TrainingEntry,
)

GRID = (8, 16, 32, 64)
SEEDS = (0, 1, 2)

FVU = MetricSpec(name="fvu", better="lower", formula="sum |x - x_hat|² / sum |x - mean|²")
CE = MetricSpec(name="ce_loss_recovered", better="higher", formula="(ablated - sae) / (ablated - clean)")
L0 = MetricSpec(name="l0", better="none", formula="mean non-zero latents per token", compared=False)
DENSITY = MetricSpec(name="density_slope", better="none", formula="slope of log density")

PROTOCOL = Protocol(
    suite="tiny",
    lm="SAE-harness tiny LM",
    lm_sha256="a" * 64,
    tokenizer_sha256="b" * 64,
    hookpoint="blocks.1.hook_resid_post",
    d_in=192,
    d_sae=1536,
    n_tokens=600_000,
    batch_size=1024,
    train_data="c" * 64,
    eval_data="d" * 64,
    seq_len=128,
    store_dtype="float32",
    stream_seed=0,
    evaluation_seed=0,
)


def make_record(
    method: str = "topk",
    *,
    seed: int = 0,
    target_l0: int | None = 32,
    values: Mapping[str, float] | None = None,
    preset: str = "",
    protocol: Protocol = PROTOCOL,
    control: bool = False,
    faulty: bool = False,
    taints: Sequence[Taint] = (),
    versions: Mapping[str, int] | None = None,
    evaluations: Mapping[str, EvaluationEntry] | None = None,
    l0_reached: bool | None = None,
    options: Mapping[str, float] | None = None,
) -> Record:
    """One record; `values` are its metrics, of which `l0` defaults to the target."""
    values = {"l0": float(target_l0 or 0), **(values or {})}
    key = hashlib.sha256(repr((method, preset, seed, target_l0, protocol)).encode()).hexdigest()
    return Record(
        key=key,
        sae_id=hashlib.sha256(key.encode()).hexdigest(),
        protocol=protocol,
        method=MethodEntry(
            name=method,
            preset=preset,
            distribution="sae-harness",
            version="0.1.0",
            architecture="topk",
            options={"k": target_l0, "lr": 1e-3, **(options or {})},
            code_sha256="e" * 64,
            faulty=faulty,
            control=control,
        ),
        training=TrainingEntry(
            seed=seed,
            target_l0=target_l0,
            steps=585,
            tokens=599_040,
            final_loss=12.5,
            final_terms={"reconstruction": 12.5},
            l0_reached=l0_reached,
            dead_latents=3,
            input_scale=0.25,
            wall_seconds=20.0,
            peak_memory_mib=900.0,
        ),
        metrics={
            name: MetricEntry(value=value, n=256, version=(versions or {}).get(name, 1), evaluator="core", stderr=0.01)
            for name, value in values.items()
        },
        evaluations=evaluations if evaluations is not None else {"core": EvaluationEntry(status="done")},
        provenance=Provenance(
            harness_version="0.1.0",
            distributions={"torch": "2.9.0"},
            python="3.11.2",
            platform="linux-x86_64",
            device="cpu",
            threads=1,
            commit="",
            created="2026-01-02T03:04:05+00:00",
            suite_sha256="f" * 64,
        ),
        taints=tuple(taints),
    )


def make_side(
    method: str = "topk",
    value: Callable[[int, float], float] = lambda seed, l0: 1.0 / l0,
    *,
    metric: str = "fvu",
    seeds: Sequence[int] = SEEDS,
    grid: Sequence[int] = GRID,
    l0: Callable[[int, int], float] = lambda seed, target: float(target),
    **fields,
) -> list[Record]:
    """Records over a grid and seeds: `value(seed, measured l0)` is the metric, `l0(seed, target)` what is measured."""
    return [
        make_record(
            method,
            seed=seed,
            target_l0=target,
            values={"l0": l0(seed, target), metric: value(seed, l0(seed, target))},
            **fields,
        )
        for seed in seeds
        for target in grid
    ]


def with_protocol(records: Sequence[Record], **changes) -> list[Record]:
    """The records under a changed protocol."""
    return [replace(r, protocol=replace(r.protocol, **changes)) for r in records]
