"""The sweep of every level on a planted language model's texts, and what two SAEs select alike."""

from __future__ import annotations

import json

import pytest
import torch
from sae_harness_hierarchical_unlearning.analyses import selectivity
from sae_harness_hierarchical_unlearning.overlap import SelectedOverlap
from sae_harness_hierarchical_unlearning.text_analysis import SETTINGS, unlearning_levels
from sae_harness_hierarchical_unlearning.texts import TextInterventions, TextTask

from harness import DataError, TrainingLog
from harness.builtin.evaluators.unlearning_specs import planted_rows
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.unlearning_sweep import REPORT, SELECTION
from harness.interfaces.analysis import Reference
from harness.testing.bench import MethodBench
from harness.testing.fixtures import HOOKPOINT, TinyLM, random_sae, tiny_context, tiny_store
from harness.testing.texts import PlantedTexts

LOG = TrainingLog()
METHODS = ("unlearning", "prefixes", "mixture", "linked")


def number(value: object) -> float:
    """A value of a table that must be a number."""
    assert isinstance(value, (int, float)), value
    return float(value)


@pytest.fixture
def planted() -> StoreEvalContext:
    lm = TinyLM()
    return StoreEvalContext(
        tiny_store(1, n_sequences=12),
        hookpoint=HOOKPOINT,
        data_id="tiny",
        seed=0,
        language_model=lm,
        lm_sha256="tiny",
        texts=PlantedTexts(lm, rows=planted_rows),
    )


@pytest.fixture(scope="module")
def trained(catalogue):
    def sae(name: str):
        return MethodBench(catalogue, f"hierarchical_{name}", label=name).trained_sae()

    return {name: sae(name) for name in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_every_level_is_swept_and_read_on_the_other_half(planted, trained, method):
    with torch.no_grad():
        result = unlearning_levels(trained[method], planted, LOG)
    json.dumps(result.to_json(), allow_nan=False)
    rows = result.tables["sweep"].rows
    assert len(rows) == 4 * len(SETTINGS)
    assert any(row[-1] for row in rows), "a setting is within the budget"
    for level in ("base", "gated", "concept", "coordinated"):
        own = [row for row in rows if row[0] == level]
        assert sum(bool(row[-1]) for row in own) <= 1
        chosen = [row for row in own if row[-1]]
        if chosen:
            assert result.values[f"{level}/forget_rise"] == pytest.approx(chosen[0][6])
            assert number(chosen[0][5]) <= 0.01, "within the budget on the half that it was chosen on"
    domains = {row[0]: row[1] for row in result.tables["domains"].rows}
    assert domains == {"even": True, "odd": False}


def test_one_level_is_swept_as_base_and_gated(planted):
    with torch.no_grad():
        result = unlearning_levels(random_sae(), planted, LOG)
    assert {row[0] for row in result.tables["sweep"].rows} == {"base", "gated"}


def test_what_both_do_is_what_each_does_and_the_rest(planted, trained):
    with torch.no_grad():
        values = unlearning_levels(trained["prefixes"], planted, LOG).values
    assert "interaction/base/forget_rise" in values, "a setting of the base level is within the budget"
    for side in ("forget", "retain"):
        parts = sum(number(values[f"interaction/{name}/{side}_rise"]) for name in ("base", "concept", "non_additive"))
        assert values[f"interaction/coordinated/{side}_rise"] == pytest.approx(parts, abs=1e-9)


def test_a_gate_and_attribution_choose_within_the_selection_half(planted, trained):
    with torch.no_grad():
        task = TextTask(trained["mixture"], planted)
        made = TextInterventions(task)
        wanted = [s for s in SETTINGS if (s.selector, s.n, s.strength) == ("attribution", 4, 4.0)]
        assert wanted
        for setting in wanted:
            latents = setting.latents(made.forget, made.retain)
            assert made.forget.attribution is not None
            assert bool((made.forget.attribution()[latents] > 0).all())
            base, gated = (task.losses(make(setting), SELECTION) for make in (made.base, made.gated))
            clean = task.bench.clean.ce
            changed = [losses != clean for losses in (base, gated)]
            assert not bool((changed[1] & ~changed[0]).any()), "a gate changes no more texts than the clamp"
            assert not bool(changed[0][task.bench.half == REPORT].any())


def test_attribution_of_concepts_is_that_of_what_falls_silent_with_them(planted, trained):
    with torch.no_grad():
        made = TextInterventions(TextTask(trained["mixture"], planted))
        assert made.levels is not None
        of_latents = torch.arange(64, dtype=torch.float64)
        parents = torch.full((64,), -1)
        parents[10], parents[20] = 1, 1
        assert made.levels.attribution(of_latents, parents).tolist() == [0.0, 31.0, 2.0, 3.0]


def test_without_texts_the_reason_is_told(trained):
    with pytest.raises(DataError, match="no labelled texts"):
        unlearning_levels(trained["mixture"], tiny_context(), LOG)


def overlap(sae, other, context):
    analysis = SelectedOverlap()
    analysis.reference = Reference(label="other", sae=other, training=LOG)
    with torch.no_grad():
        return analysis.run(sae, context, LOG)


def test_an_sae_selects_what_it_selects(feature_sae, context):
    result = overlap(feature_sae, feature_sae, context)
    for row in result.tables["overlap"].rows:
        assert row[3] == 1.0
    assert number(result.values["rate/null"]) < 1.0
    assert "attribution/overlap" not in result.values, "a world has no language model"


def test_texts_tell_what_is_selected_where_there_is_no_world(planted, trained):
    result = overlap(trained["mixture"], trained["mixture"], planted)
    assert result.values["attribution/overlap"] == 1.0


def test_selectivity_is_told_of_texts_too(planted, trained):
    with torch.no_grad():
        result = selectivity(trained["linked"], planted, LOG)
    assert result.values["latents"]
    assert {row[0] for row in result.tables["most_selective"].rows} == {"latents", "concepts"}
    best = result.tables["most_selective"].rows[0]
    assert number(best[2]) > 0.3, "even tokens have latents of their own"
    assert number(best[3]) > number(best[4])


def test_overlap_needs_another_sae(feature_sae, context):
    with pytest.raises(DataError, match="--reference"):
        SelectedOverlap().run(feature_sae, context, LOG)
