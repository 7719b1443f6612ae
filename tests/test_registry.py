"""registry.yaml: typed, strict, merged; and the shipped one equal to what is installed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import ConfigError, UnknownNameError
from harness.plugins import load_catalogue
from harness.registry import KnownMethod, Registry, difference, load_registry

SHIPPED = Path(__file__).parents[1] / "registry.yaml"
SUITE = """
  {name}:
    summary: A suite.
    claim: none
    lm: {{source: package:somewhere}}
    text: {{source: package:somewhere/text.jsonl.gz, n_train_tokens: 1000, n_eval_sequences: 4}}
    hookpoint: blocks.1.hook_resid_post
    d_sae: {d_sae}
    l0_grid: [8]
    seeds: [0]
    n_tokens: 1000
    batch_size: 100
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text: str, name: str = "registry.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write_file


def suite(name: str = "mine", d_sae: int = 64) -> str:
    return SUITE.format(name=name, d_sae=d_sae)


def fake_catalogue(**owners: str):
    items = {
        name: SimpleNamespace(spec=SimpleNamespace(name=name), distribution=owner) for name, owner in owners.items()
    }
    return SimpleNamespace(trainers=items)


def test_entries_are_typed(write):
    manifest = "a" * 64
    registry = load_registry(
        [
            write(
                "methods:\n  idea: {distribution: d-idea, summary: An idea., install: pip install d-idea}\n"
                f"suites:{suite()}\nbaselines:\n  mine:\n    topk: '{manifest}'\n"
            )
        ]
    )
    assert registry.methods["idea"] == KnownMethod(
        distribution="d-idea", summary="An idea.", install="pip install d-idea"
    )
    assert registry.suite("mine").d_sae == 64
    assert registry.suite("mine").l0_grid == (8,)
    assert registry.baselines["mine"]["topk"] == manifest


def test_an_empty_file_is_an_empty_registry(write):
    assert load_registry([write("# nothing yet\n")]) == Registry()


def test_a_later_file_is_merged_over_an_earlier_one(write):
    first = write(
        f"suites:{suite('a')}{suite('b')}\nbaselines: {{a: {{topk: {'1' * 63}a, relu: {'2' * 63}a}}}}\n", "1.yaml"
    )
    second = write(f"suites:{suite('b', 128)}\nbaselines: {{a: {{topk: {'3' * 63}a}}}}\n", "2.yaml")
    registry = load_registry([first, second])
    assert (registry.suite("a").d_sae, registry.suite("b").d_sae) == (64, 128)
    assert registry.baselines["a"] == {"topk": "3" * 63 + "a", "relu": "2" * 63 + "a"}


def test_an_unknown_suite_names_what_is_known(write):
    with pytest.raises(UnknownNameError, match=r"Unknown suite 'min': known are mine\. Did you mean mine"):
        load_registry([write(f"suites:{suite()}")]).suite("min")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methds: {}", "unknown key 'methds'; allowed are methods, suites, baselines"),
        ("methods: [a]", "methods must be a mapping"),
        ("just text", "the file must be a mapping"),
        ("methods: {a: {distribution: d}}", "the key 'summary' is missing"),
        ("methods: {a: {distribution: d, summary: s, color: red}}", "unknown key 'color'"),
        ("methods: {a: {distribution: d, summary: 3}}", "summary must be text, got 3"),
        ("methods: {a: {distribution: d, summary: s, status: soon}}", "allowed are available, planned"),
        (
            "methods:\n  a: {distribution: d, summary: s}\n  a: {distribution: e, summary: s}",
            "'a' is there twice.*line 3",
        ),
        ("baselines: {tiny: {topk: abc}}", "64 hex digits"),
        ("suites: {a: {summary: s}}", "Suite 'a'"),
        ("methods: {", "is not YAML"),
    ],
)
def test_a_faulty_file_is_refused_with_its_name_and_the_fault(write, text, message):
    path = write(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_registry([path])
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_registry([tmp_path / "missing.yaml"])


def test_the_difference_names_each_kind():
    registry = Registry(
        methods={
            "here": KnownMethod(distribution="d", summary="s"),
            "absent": KnownMethod(distribution="d", summary="s"),
            "later": KnownMethod(distribution="d", summary="s", status="planned"),
            "early": KnownMethod(distribution="d", summary="s", status="planned"),
            "moved": KnownMethod(distribution="d", summary="s"),
        }
    )
    found = difference(registry, fake_catalogue(here="d", early="d", moved="e", strange="f"))  # type: ignore[arg-type]
    assert found.not_installed == ("absent",)
    assert found.unregistered == ("strange",)
    assert found.other_distribution == ("moved",)
    assert found.planned_but_installed == ("early",)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (KnownMethod(distribution="d", summary="s", install="pip install d"), "idea is not installed: pip install d"),
        (KnownMethod(distribution="d", summary="s", status="planned", install="x"), "planned and not available yet"),
        (KnownMethod(distribution="d", summary="s"), "comes with d, which is not loaded"),
    ],
)
def test_each_known_method_says_how_to_get_it(method, message):
    assert message in Registry(methods={"idea": method}).known_methods["idea"]


def test_the_shipped_registry_agrees_with_what_is_installed():
    registry = load_registry([SHIPPED])
    found = difference(registry, load_catalogue({}, tell=[].append))
    ours = {name for name, method in registry.methods.items() if method.distribution == "sae-harness"}
    assert not ours & set(found.not_installed)
    assert found.other_distribution == ()
    assert found.planned_but_installed == ()


def test_every_name_a_shipped_suite_uses_is_known():
    registry = load_registry([SHIPPED])
    for name in registry.suites:
        config = registry.suite(name)
        baselines = {label.partition("@")[0] for label in config.baselines}
        assert {*config.controls, *baselines, *config.options} <= registry.methods.keys()
        # A preset is known by its plugin, which need not be here: that its records are stored says that it was.
        presets = {label for label in config.baselines if "@" in label}
        assert presets <= registry.baselines.get(name, {}).keys()
    assert registry.baselines.keys() <= registry.suites.keys()
    for suite_name, stored in registry.baselines.items():
        assert {label.partition("@")[0] for label in stored} <= registry.methods.keys(), suite_name


def test_the_shipped_suites_are_those_the_readme_promises():
    assert {"tiny", "smollm2", "pythia-160m", "gemma-2-2b-L12"} <= load_registry([SHIPPED]).suites.keys()
