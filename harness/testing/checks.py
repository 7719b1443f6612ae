"""The conformance kit: every check of every spec of one installed distribution."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ..errors import ConfigError, HarnessError
from ..interfaces.specs import Option, SAESpec, TrainerSpec
from ..plugins import Catalogue, Provided
from .analysis_checks import ANALYSIS_CHECKS, AnalysisBench
from .bench import MethodBench, require
from .evaluator_checks import EVALUATOR_CHECKS, EvaluatorBench
from .installed import owner_of
from .sae_checks import SAE_CHECKS
from .terms import DEFAULT_TERM_CHECKS, TERM_CHECKS
from .trainer_checks import SPEC_CHECKS, TRAINED_CHECKS, UNTRAINED_CHECKS

_HEAVY = ("torch", "transformers", "datasets", "sklearn", "scipy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of one subject, called without arguments; raises where it fails."""

    spec: str
    """The subject: `topk`, `temporal@shuffled`, `sae:topk:random` (the SAE topk, made by the method random),
    `evaluator:core`, `analysis:splitting`, or the distribution itself."""
    name: str
    run: Callable[[], None]
    expected_failure: str = ""
    """Why the check is known to fail; empty where it must pass."""

    @property
    def id(self) -> str:
        """`spec-name`, as pytest shows it."""
        return f"{self.spec}-{self.name}"

    def __call__(self) -> None:
        # At these sizes a second thread only waits: on a busy machine that costs a factor of ten.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            self.run()
        finally:
            torch.set_num_threads(threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """How one check of one spec ended."""

    spec: str
    check: str
    passed: bool
    message: str
    """Why it failed, or, where it failed as expected, the reason given for that."""


def run_checks(
    distribution: str,
    catalogue: Catalogue,
    *,
    expected_failures: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[CheckResult]:
    """Run the kit on an installed distribution: `sae-harness-temporal`, or `sae-harness` for the built-ins.

    `expected_failures` is as in `collect_checks`; such a check counts as passed when it fails. `progress` is called
    with (checks done, checks in all).

    Raises:
        UnknownNameError: the distribution is not installed.
        PluginError: it is installed and fails to load.
        NameClashError: it shares a name with another distribution.
        ConfigError: `expected_failures` names no check, or gives no reason.
    """
    checks = collect_checks(distribution, catalogue, expected_failures=expected_failures)
    results = []
    for check in checks:
        results.append(_result(check))
        progress(len(results), len(checks))
    return results


def collect_checks(
    distribution: str, catalogue: Catalogue, *, expected_failures: Mapping[str, str] | None = None
) -> list[Check]:
    """The checks of a distribution, in the order of its specs: plugin, SAEs, methods with their presets, evaluators,
    analyses.

    `expected_failures` maps a check to the reason why it fails: by its id (`topk-loss_terms_sum_to_total`), or by its
    name for all specs. An expected failure that passes is an error.

    Raises: as `run_checks`.
    """
    name = owner_of(distribution, catalogue)
    checks = [
        *_distribution_checks(name, catalogue),
        *_sae_checks(name, catalogue),
        *_trainer_checks(name, catalogue),
        *_evaluator_checks(name, catalogue),
        *_analysis_checks(name, catalogue),
    ]
    return _with_expected(checks, expected_failures or {})


def _distribution_checks(distribution: str, catalogue: Catalogue) -> Iterator[Check]:
    def is_loaded_whole() -> None:
        """Nothing of the distribution was left out."""
        failures = [failure.cause for failure in catalogue.failures if failure.distribution == distribution]
        require(not failures, f"Left out while loading: {'; '.join(failures)}.")

    def listing_it_loads_no_heavy_package() -> None:
        """Its plugin module and hooks import none of torch, transformers, datasets, sklearn, scipy."""
        script = (
            "import sys\nfrom harness.plugins import load_catalogue\n"
            f"load_catalogue({{'SAE_HARNESS_PLUGINS': {distribution!r}}})\n"
            f"print(*[name for name in {_HEAVY!r} if name in sys.modules])"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        require(done.returncode == 0, f"Loading {distribution} in a new process fails: {done.stderr.strip()[-300:]}")
        require(
            not done.stdout.strip(),
            f"Listing {distribution} imports {done.stdout.strip()}: name classes by their target in the spec, and "
            "import them nowhere in the plugin module.",
        )

    for check in (is_loaded_whole, listing_it_loads_no_heavy_package):
        yield Check(spec=distribution, name=check.__name__, run=check)


def _sae_checks(distribution: str, catalogue: Catalogue) -> Iterator[Check]:
    """Each SAE of the distribution with each method that trains it: its own methods, else those of others."""
    for provided in _of(distribution, catalogue.saes.values()):
        users = [t for t in catalogue.trainers.values() if t.spec.sae == provided.spec.name]
        users = [t for t in users if t.distribution == distribution] or users
        if not users:
            yield Check(
                spec=f"sae:{provided.spec.name}", name="a_method_trains_it", run=partial(_refuse_unused, provided)
            )
        for user in users:
            label = f"sae:{provided.spec.name}:{user.spec.name}"
            bench = MethodBench(catalogue, user.qualified, label=label)
            yield from _bound(label, SAE_CHECKS, bench)


def _refuse_unused(provided: Provided[SAESpec]) -> None:
    """An SAE that no method trains can be neither built nor checked."""
    require(False, f"No installed method has sae={provided.spec.name!r}: provide a TrainerSpec that trains it.")


def _trainer_checks(distribution: str, catalogue: Catalogue) -> Iterator[Check]:
    for provided in _of(distribution, catalogue.trainers.values()):
        for label, name, overrides in _variants(provided):
            bench = MethodBench(catalogue, name, label=label, overrides=overrides)
            of_training = (*TRAINED_CHECKS, *TERM_CHECKS) if provided.spec.trained else UNTRAINED_CHECKS
            of_default = (*SPEC_CHECKS, *(DEFAULT_TERM_CHECKS if provided.spec.trained else ()))
            is_default = label == provided.spec.name
            yield from _bound(label, (*of_default, *of_training) if is_default else of_training, bench)


def _variants(provided: Provided[TrainerSpec]) -> Iterator[tuple[str, str, Mapping[str, Option]]]:
    """(label, name for `resolve_method`, overrides): the method, each preset, and each base but the first."""
    spec = provided.spec
    yield spec.name, provided.qualified, {}
    for preset in spec.presets:
        yield f"{spec.name}@{preset}", f"{provided.qualified}@{preset}", {}
    for base in spec.extends[1:]:
        yield f"{spec.name}:{base}", provided.qualified, {"base": base}


def _evaluator_checks(distribution: str, catalogue: Catalogue) -> Iterator[Check]:
    for provided in _of(distribution, catalogue.evaluators.values()):
        yield from _bound(f"evaluator:{provided.spec.name}", EVALUATOR_CHECKS, EvaluatorBench(provided))


def _analysis_checks(distribution: str, catalogue: Catalogue) -> Iterator[Check]:
    for provided in _of(distribution, catalogue.analyses.values()):
        yield from _bound(f"analysis:{provided.spec.name}", ANALYSIS_CHECKS, AnalysisBench(provided, catalogue))


def _bound(spec: str, checks: Sequence[Callable[[Any], None]], bench: object) -> Iterator[Check]:
    for check in checks:
        yield Check(spec=spec, name=check.__name__, run=partial(check, bench))


def _of(distribution: str, provided: Any) -> Iterator[Any]:
    return (item for item in provided if item.distribution == distribution)


def _with_expected(checks: Sequence[Check], expected: Mapping[str, str]) -> list[Check]:
    known = {check.id for check in checks} | {check.name for check in checks}
    for key, reason in expected.items():
        if key not in known:
            raise ConfigError(
                f"expected_failures names {key!r}, which is no check: write a check's name, or its id "
                "`spec-name` as pytest shows it."
            )
        if not isinstance(reason, str) or not reason.strip():
            raise ConfigError(f"expected_failures gives no reason for {key!r}: say in one line why it fails.")
    reasons = [expected.get(check.id) or expected.get(check.name, "") for check in checks]
    return [replace(check, expected_failure=reason) for check, reason in zip(checks, reasons, strict=True)]


def _result(check: Check) -> CheckResult:
    message = ""
    try:
        check()
    except Exception as error:  # noqa: BLE001 - the result is the failure; the other checks go on
        message = _one_line(error)
    if check.expected_failure:
        passed = bool(message)
        message = check.expected_failure if passed else f"passes, but is expected to fail: {check.expected_failure}"
    else:
        passed = not message
    return CheckResult(spec=check.spec, check=check.name, passed=passed, message=message)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, HarnessError) and text else f"{type(error).__name__}: {text}"
