"""The pure parts of benchmarks/: differences, table, protocol of the peer's runs. The peer itself is not needed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def _run(module: ModuleType, label: str, seed: int, value: float, *, codes: str = "top_k", cpu: float = 1.0) -> Any:
    return module.Run(
        label=label,
        codes=codes,
        k=8,
        seed=seed,
        explained_variance=value,
        l0=8.0,
        dead_latent_fraction=0.25,
        cpu_seconds_per_step=cpu,
        wall_seconds_per_step=cpu,
        config={} if label == "ours" else {"lr": 6.5e-4, "warmup_steps": 5, "decay_start": 80},
    )


def _figures(module: ModuleType) -> dict[str, Any]:
    runs = [_run(module, "ours", seed, 0.8 + 0.01 * seed) for seed in range(3)]
    runs += [_run(module, "dictionary_learning", seed, 0.7 + 0.01 * seed, cpu=2.5) for seed in range(3)]
    suite = {"name": "s", "hookpoint": "h", "d_sae": 64, "n_tokens": 6400, "n_steps": 100, "batch_size": 64}
    return {
        "suite": {**suite, "seeds": [0, 1, 2], "claim": "a test"},
        "ours": {"label": "ours", "lr": 0.003, "options": {"lr": 0.003}},
        "peers": [{"dead_after_tokens": 640}],
        "runs": [asdict(run) for run in runs],
        "threads": 1,
    }


def test_differences_are_paired_by_seed_and_ours_minus_theirs(load: Any) -> None:
    module = load("quality_report")
    figures = _figures(module)
    found = module.row_differences([module.Run(**run) for run in figures["runs"]], "ours")
    gap = found[8, "dictionary_learning", "top_k"]
    assert list(found) == [(8, "dictionary_learning", "top_k")]
    assert gap.method == "paired"
    assert gap.estimate == pytest.approx(0.1)
    assert gap.smallest_detectable == pytest.approx(0.0, abs=1e-12)


def test_table_shows_the_difference_and_the_ratio_of_cpu_seconds(load: Any) -> None:
    module = load("quality_report")
    lines = module.table(_figures(module), "csv").splitlines()
    (row,) = [line for line in lines if line.startswith("8,dictionary_learning")]
    assert "+0.1" in row
    assert row.endswith("x 2.50")
    assert "25.0 %" in row


def test_a_small_deficit_of_ours_keeps_its_sign(load: Any) -> None:
    module = load("quality_report")
    figures = _figures(module)
    for run in figures["runs"][:3]:
        run["explained_variance"] -= 0.1002 + 0.01 * (run["seed"] == 1)
    (row,) = [line for line in module.table(figures, "csv").splitlines() if line.startswith("8,dictionary_learning")]
    assert "-0.00353 [" in row


def test_report_holds_each_seed_the_summaries_and_the_machine(load: Any) -> None:
    module = load("quality_report")
    data = json.loads(module.report(_figures(module)))
    assert len(data["runs"]) == 6
    assert data["rows"][1]["ours_minus_this"]["estimate"] == pytest.approx(0.1)
    assert data["machine"]["cpu"]


def test_cpu_model_is_read_from_cpuinfo(load: Any, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Processor @ 2 GHz\n")
    assert load("quality_report").cpu_model(tmp_path / "cpuinfo") == "A Processor @ 2 GHz"


def test_measure_is_exact_on_known_reconstructions(load: Any) -> None:
    sides = load("quality_sides")
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) + 3.0
    fired = torch.tensor([50, 25, 0, 25])
    assert sides.measure(x, x, fired) == {"explained_variance": 1.0, "l0": 2.0, "dead_latent_fraction": 0.25}
    mean = x.double().mean(0).expand_as(x)
    assert sides.measure(x, mean, fired)["explained_variance"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("n_steps", "warmup"), [(512, 26), (100_000, 1000)])
def test_peer_schedule_fits_the_budget(load: Any, n_steps: int, warmup: int) -> None:
    schedule = load("quality_sides").schedule(n_steps)
    assert schedule["warmup_steps"] == schedule["threshold_start_step"] == warmup
    assert warmup < schedule["decay_start"] < n_steps


def test_an_environment_that_cannot_be_made_is_told(load: Any, tmp_path: Path) -> None:
    module = load("peer_environment")
    (tmp_path / "file").write_text("")
    with pytest.raises(module.PeerError, match=r"cannot be made(.|\n)*--environment"):
        module.ensure_environment(tmp_path / "file")


def test_requirements_pin_the_torch_and_transformers_that_the_harness_is_tested_with(load: Any) -> None:
    module = load("peer_environment")
    constraints = module.pinned((BENCHMARKS.parent / "constraints.txt").read_text())
    for peer in module.PEERS.values():
        pinned = module.pinned(peer.requirements.read_text())
        assert [pin for pin in pinned if pin.startswith(("torch==", "transformers=="))] == constraints[:2]
        assert any(pin.startswith(f"{peer.distribution}==") for pin in pinned)
