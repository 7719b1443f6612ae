"""The analyses on a world whose answers are known: half of its features are sticky."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from sae_harness_temporal.clusters import FeatureClusters
from sae_harness_temporal.positions import PositionAnalysis, SparsityAnalysis, by_position, constant
from sae_harness_temporal.stability_analysis import TemporalStability
from sae_harness_temporal.traces import StrengthTraces

from harness import DataError, HeatMap, TrainingLog
from harness.training.fit import FitResult, fit


@dataclass
class Trained:
    result: FitResult
    log: TrainingLog


@pytest.fixture(scope="module")
def trained(make_job, stream) -> Trained:
    job = make_job("temporal", lr=1e-2)
    [result] = fit([job], stream, n_steps=150, batch_size=256, dead_after_tokens=256 * 40)
    facts = {"log": list(result.log), "seed": 3, "steps": result.steps, "tokens": result.tokens}
    return Trained(result, TrainingLog.of(facts, method="temporal"))


@pytest.fixture
def context(make_context, world):
    return make_context(world.sequences(60, 40, seed=5))


def run(analysis, trained, context) -> Any:
    with torch.no_grad():
        result = analysis().run(trained.result.sae, context, trained.log)
    json.dumps(result.to_json(), allow_nan=False)
    assert all(panel.x_label and panel.y_label for figure in result.figures for panel in figure.panels)
    return result


def test_a_sticky_world_is_steadier_than_its_tokens_shuffled(trained, context):
    found = run(TemporalStability, trained, context).values
    for name in ("autocorrelation_lag1", "jaccard_lag1", "mean_dwell", "multiscale_8"):
        assert found[f"{name}/this_SAE"] > found[f"{name}/shuffled_tokens"]
    for name in ("flip_rate", "total_variation", "high_over_low_frequencies"):
        assert found[f"{name}/this_SAE"] < found[f"{name}/shuffled_tokens"]
    assert abs(found["autocorrelation_lag1/shuffled_tokens"]) < 0.02
    assert found["gain"] > 0.1


def test_sticky_latents_come_back_as_a_cluster_and_independent_ones_do_not(trained, context, make_context, world):
    found = run(FeatureClusters, trained, context)
    assert found.values["clusters"] >= 2
    assert found.values["bootstrap_agreement"] > 0.5
    column = found.tables["clusters"].columns.index("autocorrelation_lag1")
    memories = sorted(row[column] for row in found.tables["clusters"].rows)
    assert memories[-1] > memories[0] + 0.3
    steady = world.sequences(60, 40, seed=5)
    tokens = steady.flatten(0, 1)
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(1))
    alone = run(FeatureClusters, trained, make_context(tokens[order].view_as(steady)))
    assert alone.values["verdict"] == "no structure"
    assert alone.values["clusters"] is None
    assert "no structure" in alone.figures[0].title


def test_positions_are_averaged_over_documents():
    values = torch.tensor([[1.0, 2.0, torch.nan], [3.0, 2.0, torch.nan], [4.0, 5.0, 6.0]], dtype=torch.float64)
    mean, error = by_position(values, torch.tensor([7, 7, 9]))
    assert mean == [3.0, 3.5, None]  # the two sequences of document 7 count as one
    assert error[:2] == pytest.approx([1.0, 1.5])
    assert error[2] is None


def test_error_and_l0_by_position_agree_with_the_whole(trained, context):
    found = run(PositionAnalysis, trained, context)
    table = found.tables["positions"]
    assert [row[0] for row in table.rows] == list(range(40))
    errors = [row[table.columns.index("fvu")] for row in table.rows]
    rows = torch.cat([batch.rows() for batch in context.batches()])
    sae = trained.result.sae
    fvu = (rows - sae(rows)).square().sum() / (rows - rows.mean(0)).square().sum()
    assert sum(errors) / len(errors) == pytest.approx(fvu.item(), rel=1e-4)
    assert {row[table.columns.index("l0")] for row in table.rows} == {4.0}
    assert any("No next-token losses" in note for note in found.notes)
    [figure] = found.figures
    n_documents = len({d for batch in context.batches() for d in batch.document.tolist()})
    assert figure.caption.startswith(f"60 held-out sequences of {n_documents} documents: those of one document are")
    assert [panel.title for panel in figure.panels] == ["Reconstruction error"]
    assert "L0 is 4 at every position, and not drawn." in figure.caption


def test_an_l0_is_constant_within_a_hundredth():
    assert constant([16.0, 15.9, None]) == pytest.approx(15.95)
    assert constant([16.0, 15.8]) is None
    assert constant([0.0, 0.0]) == 0.0
    assert constant([None]) is None


def test_sparsity_is_shown_over_training_where_there_is_a_log(trained, context):
    found = run(SparsityAnalysis, trained, context)
    assert found.values["l0"] == 4.0
    assert len(found.series["l0_over_training"]) == len(trained.log.rows)
    # Of pairs, the stream has positions 0 and 1 alone; a top-k SAE fires as many latents at both.
    octaves = {name: set(values) for name, values in found.series.items() if name.startswith("l0_over_training/")}
    assert octaves == {"l0_over_training/positions_0": {4.0}, "l0_over_training/positions_1": {4.0}}
    drawn = {panel.title for panel in found.figures[0].panels}
    assert not drawn & {"Active latents", "L0 over training"}
    assert "Not drawn, being constant: L0 over training (4) and by position at its end (4)." in found.figures[0].caption
    assert any("same at all positions" in note for note in found.notes)
    with torch.no_grad():
        bare = SparsityAnalysis().run(trained.result.sae, context, TrainingLog())
    assert any("No training log" in note for note in bare.notes)
    rows = [{"step": s, "l0": 4.0, "trainer/l0_from_1": l0} for s, l0 in ((0.0, 4.0), (5.0, 5.656854), (9.0, 64.0))]
    with torch.no_grad():
        varied = SparsityAnalysis().run(trained.result.sae, context, TrainingLog(rows=rows))
    [drawn] = [p.marks[0] for p in varied.figures[0].panels if isinstance(p.marks[0], HeatMap)]
    assert drawn.rows[0] == pytest.approx([0.0, 0.5, 1.0])  # octaves over the batch's L0, at most one
    assert drawn.y_ticks == {0: "1"}
    rows = [{"step": 0.0, "l0": 4.0}]
    with torch.no_grad():
        other = SparsityAnalysis().run(trained.result.sae, context, TrainingLog(rows=rows))
    assert any("keeps no L0 by position" in note for note in other.notes)


def test_the_strength_is_read_from_the_log(trained, context):
    found = run(StrengthTraces, trained, context)
    assert found.values["share_at_start"] == pytest.approx(0.025, rel=0.01)  # .05, alpha a half
    assert not found.notes
    assert len(found.figures[0].panels) > 2
    # A log of before trainers told of themselves.
    rows = [{k: v for k, v in row.items() if not k.startswith("trainer/")} for row in trained.log.rows]
    older = run(StrengthTraces, Trained(trained.result, TrainingLog(rows=rows)), context)
    assert any("alpha" in note for note in older.notes)
    assert len(older.figures[0].panels) == 2
    with pytest.raises(DataError, match=r"holds no 'term/temporal' \(it is empty\)"):
        StrengthTraces().run(trained.result.sae, context, TrainingLog())
