"""The claims of the notebooks that FAULTS lists: each is refuted, unsupported, or bound to what
the records do not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.results.audit.tolerances import load_tolerances
from harness.results.claims.bindings import load_bindings
from harness.results.claims.comparisons import Terms
from harness.results.claims.library import Library
from harness.results.claims.outcome import GRAVITY
from harness.results.claims.runner import check_text

FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDS = FIXTURES / "gemma_records"
TEXT = (FIXTURES / "claims" / "notebooks.md").read_text(encoding="utf-8")
BINDINGS = load_bindings(FIXTURES / "claims" / "notebooks.yaml")

EXPECTED = {
    # claim -> (gravest status, what the reason must say)
    "ours": ("refuted", "temporal/run_4/core.explained_variance is 0.238"),
    "all-variants": ("refuted", "temporal/run_1/core.kl_div_score is 0.45"),
    "highest": ("refuted", "baseline_topk is 0.789"),
    "probing": ("unsupported", "sparse_probing is missing in temporal/run_1 (F31)"),
    "absorption": ("unsupported", "tainted (F01)"),
    "clusters": ("unresolved", "temporal/run_4 has no clusters"),
    "positions": ("refuted", "7.34 is temporal/run_1/core.l0"),
    "resampling": ("unresolved", "temporal/run_8 has no core.dead_features"),
    "fixed-penalties": ("refuted", ".238 is temporal/run_4/core.explained_variance"),
    "identical-conditions": ("refuted", "training.lr is 0.0003 (temporal/baseline_jumprelu), 0.0001"),
    "tuned": ("refuted", "temporal/run_4 has no training.temporal_penalty"),
    "human-evaluation": ("unresolved", "temporal/run_4 has no training.wall_seconds"),
    "tpp-better": ("refuted", "sparsity_guided_orthogonality/run_2 is 0.3756"),
    "interpretability": ("refuted", "baseline_topk is 0.9603125"),
    "ortho-weight": ("unresolved", "baseline_topk has no training.ortho_weight"),
    "isolation": ("unsupported", "baseline_topk has no tpp_threshold_500_total_metric"),
    "l1": ("unsupported", "l1 has no direction"),
    "completed": ("refuted", "topk_orthogonality/run_0/training.steps is 0"),
}


@pytest.fixture(scope="module")
def library():
    return Library([RECORDS], load_tolerances(RECORDS / "facts.yaml"))


@pytest.fixture(scope="module")
def outcomes(library):
    return check_text(TEXT, library, Terms(specs={}, labels={}), name="notebooks.md", bindings=BINDINGS).outcomes


def test_every_claim_is_expected():
    assert {claim.id for claim in BINDINGS} == set(EXPECTED)


@pytest.mark.parametrize("claim", EXPECTED)
def test_the_claim_is_refuted_or_unsupported_for_the_right_reason(outcomes, claim):
    status, reason = EXPECTED[claim]
    own = [o for o in outcomes if o.id == claim]
    assert min((o.status for o in own), key=GRAVITY.index) == status
    assert any(reason in o.reason for o in own if o.status in ("refuted", "unresolved", "unsupported")), own


@pytest.mark.parametrize("claim", BINDINGS, ids=lambda c: c.id)
def test_the_sentence_alone_is_not_passed_in_silence(library, claim):
    """Without bindings nothing can be refuted, and nothing goes by unmarked."""
    line = next(" ".join(p.split()) for p in TEXT.split("\n\n") if claim.sentence in " ".join(p.split()))
    found = check_text(line, library, Terms(specs={}, labels={}), name="alone").outcomes
    assert found
    assert {o.status for o in found} == {"unbound"}


def test_what_is_right_in_a_wrong_claim_is_said_to_be_right(outcomes):
    right = {(o.id, o.claim.split()[0]) for o in outcomes if o.status == "supported"}
    assert right == {("highest", ".79"), ("tpp-better", ".376"), ("l1", "952"), ("l1", "672")}


def test_a_number_that_belongs_to_another_record_is_told_where_it_stands(outcomes):
    [l0] = [o for o in outcomes if o.id == "ours" and "core.l0" in o.claim]
    assert "320.00 is hierarchical_unlearning/baseline_jumprelu/core.l0" in l0.reason


def test_a_comparison_of_single_seeds_at_another_l0_names_every_obstacle(outcomes):
    [found] = [o for o in outcomes if o.id == "absorption" and "~" in o.claim]
    for obstacle in ("L0 is 7.344940186 and 320", "1 seed a side", "tainted (F01)"):
        assert obstacle in found.reason
