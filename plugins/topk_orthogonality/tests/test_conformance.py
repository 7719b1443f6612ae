"""Every check that sae-harness holds its own methods to."""

from __future__ import annotations

from harness.testing.parametrize import parametrize_with_checks


@parametrize_with_checks("sae-harness-topk-orthogonality")
def test_conformance(check):
    check()
