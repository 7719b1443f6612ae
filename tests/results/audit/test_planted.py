"""Random sound records are never flagged; a random fault planted in them is always found."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.results.audit.collect import collect, recognised
from harness.results.audit.evidence import Evidence
from harness.results.audit.forms import rows, to_sarif_dict
from harness.results.audit.read_json import UnreadableError
from harness.results.audit.runner import RULES, audit, verdicts

SEEDS = st.integers(min_value=0, max_value=2**32)
KINDS = ("harness", "saebench", "combined")
FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="session")
def generate(load_here):
    return load_here("generate")


def _faults() -> tuple[list, dict]:
    import importlib.util

    path = Path(__file__).parent / "plant.py"
    spec = importlib.util.spec_from_file_location("audit_plant", path)
    assert spec is not None
    assert spec.loader is not None
    plant = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plant)
    faults = [
        *(("harness", rule, family, (), make) for rule, family, make in plant.HARNESS),
        *(("saebench", rule, family, needs, make) for rule, family, needs, make in plant.SAEBENCH),
        *(("combined", rule, family, (), make) for rule, family, make in plant.COMBINED),
    ]
    return faults, plant.NOT_SHOWN


FAULTS, NOT_SHOWN = _faults()


def sound(generate, kind: str, rng: random.Random) -> dict[str, dict]:
    return getattr(generate, f"{kind}_set")(rng)


def read(files: dict[str, dict]) -> list[Evidence]:
    """The files as evidence, by way of their text."""
    found: list[Evidence] = []
    for name, data in files.items():
        text = json.dumps(data)
        evidence = recognised(json.loads(text), text, Path("nowhere", name), name, "")
        assert evidence is not None, name
        found += evidence
    return found


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(seed=SEEDS)
def test_sound_records_are_never_flagged_together(generate, kind, seed):
    files = sound(generate, kind, random.Random(seed))
    assert audit(read(files)) == ()


@pytest.mark.parametrize("kind", KINDS)
@FEW
@given(seed=SEEDS)
def test_nor_is_any_of_them_alone(generate, kind, seed):
    rng = random.Random(seed)
    files = sound(generate, kind, rng)
    for name in rng.sample(sorted(files), min(6, len(files))):
        assert audit(read({name: files[name]})) == (), name


@FEW
@given(seed=SEEDS)
def test_nor_are_sets_of_different_kinds_given_together(generate, seed):
    rng = random.Random(seed)
    files = {f"{kind}/{n}": d for kind in ("harness", "saebench") for n, d in sound(generate, kind, rng).items()}
    assert audit(read(files)) == ()


@pytest.mark.parametrize(
    ("kind", "rule", "needs", "plant"),
    [pytest.param(k, r, n, p, id=f"{k}-{f}-{r}-{i}") for i, (k, r, f, n, p) in enumerate(FAULTS)],
)
@FEW
@given(seed=SEEDS)
def test_a_planted_fault_is_always_found(generate, kind, rule, needs, plant, seed):
    rng = random.Random(seed)
    files = sound(generate, kind, rng)
    while not _fits(kind, rule, needs, files):
        files = sound(generate, kind, rng)
    files = copy.deepcopy(files)
    guilty = plant(rng, files)
    found = {f.record for f in audit(read(files)) if f.rule == rule}
    assert found, f"{rule} was planted in {sorted(guilty)}"
    assert found & guilty, f"{rule} was planted in {sorted(guilty)} and found in {sorted(found)}"


HOSTILE = (
    1e308,
    -1e308,
    5e-324,
    0,
    -1,
    10**17,
    -(10**17),
    "",
    "x" * 500,
    "\x1b[2J",
    None,
    True,
    [],
    {},
    [[1]],
    {"a": 1},
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=SEEDS)
def test_any_value_anywhere_is_read_or_told_and_never_a_crash(generate, kind, seed):
    rng = random.Random(seed)
    files = dict(list(sound(generate, kind, rng).items())[:8])
    for data in files.values():
        for _ in range(rng.randrange(1, 6)):
            place, key = _somewhere(rng, data)
            place[key] = copy.deepcopy(rng.choice(HOSTILE))
    evidence = []
    for name, data in files.items():
        with contextlib.suppress(UnreadableError, AssertionError):  # told as R01, or no longer known as a record: R02
            evidence += read({name: data})
    findings = audit(evidence)
    verdicts(findings, evidence)
    json.dumps(to_sarif_dict(findings, RULES, "0"))
    assert len(rows(findings)) == len(findings)


def _somewhere(rng: random.Random, data) -> tuple:
    """A container in the data and a key or index of it."""
    while True:
        keys = list(data) if isinstance(data, dict) else list(range(len(data)))
        key = rng.choice(keys)
        inner = data[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.9:
            data = inner
        else:
            return data, key


def _fits(kind: str, rule: str, needs: tuple[str, ...], files: dict[str, dict]) -> bool:
    """Whether this set has what the fault is planted in."""
    if kind == "harness" and rule in ("F23", "F24"):
        return any(name.startswith("temporal") for name in files)
    kinds = {data.get("eval_type_id") for data in files.values()}
    return set(needs) <= kinds


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_is_planted_in_each_form_of_record_or_it_is_said_why_not(kind):
    """The table of FAULTS' fifty, three forms of record, and what is planted in them."""
    checked = {rule.id for rule in RULES if rule.check is not None}
    planted = {rule for k, rule, *_ in FAULTS if k == kind}
    excused = {rule for k, rule in NOT_SHOWN if k == kind}
    assert planted | excused == checked
    assert planted & excused == set()


def test_what_no_record_shows_is_held_elsewhere():
    """Fifty rules: those without a check are held by the conformance kit, by claims, or by what a record is."""
    assert [rule.id for rule in RULES] == [f"F{n:02}" for n in range(1, 51)]
    unheld = [rule.id for rule in RULES if rule.check is None and not rule.held_by]
    assert unheld == []
    planted_somewhere = {rule for _, rule, *_ in FAULTS}
    only_files = {"F32"}  # and F32 in a folder of runs
    assert {rule.id for rule in RULES if rule.check is not None} == planted_somewhere | only_files


@pytest.mark.parametrize("kind", ["harness", "saebench"])
def test_every_family_that_a_record_can_show_is_planted(kind):
    families = {family for k, _, family, _, _ in FAULTS if k == kind}
    every = {"identity", "training", "confounds", "coverage", "semantics", "infrastructure"}
    assert families == (every | {"formulation"} if kind == "harness" else every)


@pytest.mark.parametrize("kind", KINDS)
def test_through_files_too(generate, kind, tmp_path):
    files = sound(generate, kind, random.Random(3))
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(data))
    collected = collect([tmp_path])
    assert collected.findings == ()
    assert {e.name for e in collected.evidence} == set(files)
    assert audit(collected.evidence) == ()
