"""The kit as a pytest decorator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def parametrize_with_checks(
    distribution: str, *, expected_failures: Mapping[str, str] | None = None
) -> pytest.MarkDecorator:
    """Run a test once for each check of each spec of an installed distribution; the test's argument is `check`.

        @parametrize_with_checks("sae-harness-temporal")
        def test_conformance(check):
            check()

    `expected_failures` maps a check that is known to fail to the reason: by its id (`topk-the_batch_is_not_edited`) or
    by its name for all specs. Such a test is reported as an expected failure, and fails if the check passes.

    Raises:
        UnknownNameError: the distribution is not installed.
        PluginError: it is installed and fails to load.
        ConfigError: `expected_failures` names no check, or gives no reason.
    """
    import pytest

    from ..plugins import load_catalogue
    from .checks import collect_checks

    checks = collect_checks(distribution, load_catalogue(), expected_failures=expected_failures)
    parameters = [
        pytest.param(
            check,
            id=check.id,
            marks=[pytest.mark.xfail(reason=check.expected_failure, strict=True)] if check.expected_failure else [],
        )
        for check in checks
    ]
    return pytest.mark.parametrize("check", parameters)
