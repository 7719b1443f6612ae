"""The record factory of tests/results, and a folder of the harness's own records."""

from __future__ import annotations

import importlib.util
import random
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from harness.results.claims.comparisons import Terms
from harness.results.claims.library import Library
from harness.results.claims.runner import check_text


@pytest.fixture(scope="session")
def factory() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record_factory", Path(__file__).parents[1] / "factory.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ended(record, loss):
    """The record of a run that ended at this loss: two runs do not end at one by chance (rule F08)."""
    training = replace(record.training, final_loss=loss, final_terms={"reconstruction": loss})
    return replace(record, training=training)


@pytest.fixture(scope="session")
def own(factory, tmp_path_factory):
    """(library, terms): topk at fvu 0.30, idea at 0.20, twin at topk's but for noise, over three seeds and two L0s."""
    folder = tmp_path_factory.mktemp("records")
    for method, level in (("topk", 0.3), ("idea", 0.2), ("twin", 0.3)):
        for seed in factory.SEEDS:
            for l0 in (8, 32):
                noise = random.Random(f"{method} {seed} {l0}").gauss(0, 0.001)
                values = {"fvu": level + 1 / l0 + noise, "density_slope": level}
                record = ended(factory.make_record(method, seed=seed, target_l0=l0, values=values), 12 + noise)
                record.save(folder / f"{method}_{seed}_{l0}.json")
    ended(factory.make_record("single", values={"fvu": 0.1}), 11.0).save(folder / "single.json")
    specs = {m.name: m for m in (factory.FVU, factory.L0, factory.DENSITY)}
    return Library([folder]), Terms(specs=specs, labels={})


@pytest.fixture(scope="session")
def check(own):
    """Outcomes of a Markdown text against these records."""

    def run(text, **options):
        return check_text(text, *own, name="t.md", **options)

    return run
