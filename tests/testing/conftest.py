"""A catalogue into which a test puts one class, sound or broken, as if a distribution had provided it."""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType
from typing import Any

import pluggy
import pytest

from harness.interfaces.specs import AnalysisSpec, EvaluatorSpec, MetricSpec, SAESpec, TrainerSpec
from harness.plugins import Catalogue, Plugin, Provided, load_catalogue
from harness.testing.checks import Check, collect_checks

MODULE = "classes_under_test"
DISTRIBUTION = "under-test"
METRIC = MetricSpec(name="error", better="lower", formula="mean of (x - x_hat)^2", bounds=(0.0, None))


class Kit:
    """Provide classes, then call single checks on them."""

    def __init__(self, module: ModuleType, catalogue: Catalogue) -> None:
        self.module = module
        plugin = Plugin(
            distribution=DISTRIBUTION, version="1", entry_point="x", provides=(), manager=pluggy.PluginManager("x")
        )
        self.catalogue = dataclasses.replace(catalogue, plugins=(*catalogue.plugins, plugin))

    def trainer(self, cls: type, **spec: Any) -> Kit:
        """Provide a method `mine`; by default one that trains `topk`."""
        spec = {"summary": "s", **({} if "extends" in spec else {"sae": "topk"}), **spec}
        return self._add("trainers", TrainerSpec(name="mine", target=self._target(cls), **spec))

    def sae(self, cls: type, **spec: Any) -> Kit:
        """Provide an architecture `shape`."""
        return self._add("saes", SAESpec(name="shape", target=self._target(cls), **{"summary": "s", **spec}))

    def evaluator(self, cls: type, **spec: Any) -> Kit:
        """Provide an evaluator `judge` of the metric `error`."""
        spec = {"summary": "s", "metrics": (METRIC,), **spec}
        return self._add("evaluators", EvaluatorSpec(name="judge", target=self._target(cls), **spec))

    def analysis(self, target: Any, **spec: Any) -> Kit:
        """Provide an analysis `look`, a class or a function."""
        return self._add("analyses", AnalysisSpec(name="look", target=self._target(target), **{"summary": "s", **spec}))

    def checks(self) -> list[Check]:
        """All but those of the distribution, which is not installed."""
        return [check for check in collect_checks(DISTRIBUTION, self.catalogue) if check.spec != DISTRIBUTION]

    def run(self, name: str, spec: str = "") -> None:
        """Call the check of that name, of the first subject or of `spec`."""
        found = [check for check in self.checks() if check.name == name and spec in ("", check.spec)]
        assert found, f"there is no check {name}"
        found[0]()

    def _target(self, cls: type) -> str:
        setattr(self.module, cls.__name__, cls)
        return f"{MODULE}:{cls.__name__}"

    def _add(self, what: str, spec: Any) -> Kit:
        provided = Provided(spec=spec, plugin=f"{DISTRIBUTION}:x", distribution=DISTRIBUTION, version="1")
        self.catalogue = dataclasses.replace(
            self.catalogue, **{what: {**getattr(self.catalogue, what), spec.name: provided}}
        )
        return self


@pytest.fixture(scope="session")
def built_in() -> Catalogue:
    return load_catalogue({"SAE_HARNESS_PLUGINS": "builtin", "SAE_HARNESS_STRICT": "1"})


@pytest.fixture
def kit(monkeypatch, built_in) -> Kit:
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    return Kit(module, built_in)
