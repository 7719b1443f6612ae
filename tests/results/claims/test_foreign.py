"""Comparisons of records that are not the harness's own: values first, then every reason not to compare them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from harness.results.claims.comparisons import Terms
from harness.results.claims.library import Library
from harness.results.claims.runner import check_text

BASE = Path(__file__).parents[2] / "fixtures" / "gemma_records" / "sparsity_guided_orthogonality" / "baseline_topk.json"
KEYS = ("training results for layer 12", "core evaluation results")
TERMS = Terms(specs={}, labels={})


@pytest.fixture
def study(tmp_path):
    """Writes runs of two trainers that differ in `aux` alone, over seeds, with the explained variance given."""
    source = json.loads(BASE.read_text())

    def write(values, *, l0=320.0):
        for method, own in values.items():
            for seed, value in enumerate(own):
                record = {key: copy.deepcopy(source[key]) for key in KEYS}
                training, core = (record[key] for key in KEYS)
                training["config"] |= {"seed": seed, "aux": method, "lr": training["final_info"]["learning_rate"]}
                training["final_info"]["final_loss"] *= 1 + 0.001 * seed + (0.0005 if method == "b" else 0.0)
                core["metrics"]["reconstruction_quality"]["explained_variance"] = value
                core["metrics"]["sparsity"]["l0"] = l0 if method == "a" else 320.0
                core["eval_id"] = f"{method}-{seed}"
                (tmp_path / f"{method}_{seed}.json").write_text(json.dumps(record))
        return Library([tmp_path])

    return write


def outcome(library, text):
    found = [o for o in check_text(text, library, TERMS, name="t").outcomes if o.kind == "comparison"]
    assert len(found) == 1
    return found[0]


CLAIM = "It is better {{a_* better than b_* : core.explained_variance}}."


def test_three_seeds_a_side_at_one_l0_can_bear_a_claim(study):
    library = study({"a": [0.801, 0.802, 0.803], "b": [0.701, 0.703, 0.702]})
    found = outcome(library, CLAIM)
    assert found.status == "supported", found.reason
    assert (
        outcome(library, CLAIM.replace("better than", "worse than").replace("is better", "is bad")).status == "refuted"
    )
    assert outcome(library, "They match {{a_* ~ b_* : core.explained_variance}}.").status == "refuted"


def test_noise_and_single_seeds_bear_none(study):
    noisy = study({"a": [0.70, 0.80, 0.91], "b": [0.79, 0.71, 0.90]})
    assert "within noise" in outcome(noisy, CLAIM).reason
    found = outcome(noisy, "It is better {{a_2 better than b_1 : core.explained_variance}}.")
    assert (found.status, "1 seed a side" in found.reason) == ("unsupported", True)


def test_two_records_of_one_seed_are_no_replicates(study, tmp_path):
    study({"a": [0.801, 0.802, 0.803], "b": [0.701, 0.703, 0.702]})
    twin = json.loads((tmp_path / "a_0.json").read_text())
    twin[KEYS[0]]["final_info"]["final_loss"] *= 1.1
    (tmp_path / "a_x.json").write_text(json.dumps(twin))
    found = outcome(Library([tmp_path]), CLAIM)
    assert "two records of one seed" in found.reason


def test_another_l0_bears_none(study):
    found = outcome(study({"a": [0.801, 0.802, 0.803], "b": [0.701, 0.703, 0.702]}, l0=160.0), CLAIM)
    assert (found.status, "L0 is 160 and 320" in found.reason) == ("unsupported", True)


def test_harness_records_are_not_set_beside_foreign_ones(study, factory, tmp_path):
    factory.make_record(values={"fvu": 0.2}).save(tmp_path / "own.json")
    found = outcome(study({"a": [0.8]}), "It is better {{topk better than a_0 : explained_variance}}.")
    assert "beside foreign ones" in found.reason
