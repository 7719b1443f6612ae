"""Suites of a world run end to end: records, controls in their order, keys, what is skipped and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.activations.worlds import WorldStore
from harness.artefacts.cache import Cache
from harness.artefacts.key import artefact_key
from harness.bench import Bench
from harness.config import SuiteConfig
from harness.errors import ConfigError
from harness.methods import resolve_method
from harness.pipeline import run
from harness.plugins import load_catalogue
from harness.registry import load_registry

REGISTRY = """\
methods:
  topk: {distribution: sae-harness, summary: "k largest"}

suites:
  planted:
    summary: A small world.
    claim: "for tests alone"
    world: {n_features: 32, d_in: 16, seq_len: 32, n_train_tokens: 16384, n_eval_sequences: 60, p_max: 0.2, p_min: 0.03,
            roots: 4, branching: 2, depth: 1, sticky_share: 0.5, dwell_min: 3.0, dwell_max: 12.0, forget_subtrees: 1}
    d_sae: 32
    l0_grid: [2, 4]
    seeds: [0, 1, 2]
    n_tokens: 65536
    batch_size: 256
    evaluators: [core, ground_truth]
    controls: [oracle, permuted_decoder, random]
    options:
      topk: {lr: 0.01}

baselines: {}
"""


class Quiet:
    """A progress display that shows nothing."""

    def note(self, text: str) -> None: ...
    def capture(self, what: str, done: int, total: int) -> None: ...
    def step(self, report, n_jobs: int) -> None: ...
    def evaluated(self, done: int, total: int, label: str) -> None: ...


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    (folder / "registry.yaml").write_text(REGISTRY)
    return folder


@pytest.fixture(scope="module")
def suite(root) -> SuiteConfig:
    return load_registry([root / "registry.yaml"]).suite("planted")


@pytest.fixture
def bench(suite, root) -> Bench:
    return bench_of(suite, root)


def bench_of(suite: SuiteConfig, root: Path) -> Bench:
    return Bench(suite, load_catalogue({"SAE_HARNESS_PLUGINS": "builtin"}), Cache(root / "cache"))


def jobs_of(bench: Bench, name: str):
    return bench.jobs(resolve_method(bench.catalogue, name, suite_options=bench.suite.options))


@pytest.fixture(scope="module")
def values(suite, root) -> dict[str, dict[str, list[float]]]:
    """Method -> metric -> values of its records."""
    bench = bench_of(suite, root)
    found = {}
    for name in ("oracle", "topk", "random", "permuted_decoder"):
        records = run(bench, jobs_of(bench, name), progress=Quiet())
        names = records[0].metrics
        found[name] = {metric: [record.metrics[metric].value for record in records] for metric in names}
    return found


def cli(root: Path, *args: str) -> str:
    from harness.cli.main import cli as group

    options = [f"--cache={root / 'cache'}", f"--registry={root / 'registry.yaml'}", f"--baselines={root / 'baselines'}"]
    done = CliRunner().invoke(group, [*options, *args], env={"SAE_HARNESS_PLUGINS": "builtin"})
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("metric", ["mcc", "mcc_signed", "truth_f1", "recovered", "hierarchy_recall"])
def test_the_oracle_is_above_what_is_trained_and_that_above_random(values, metric):
    oracle, trained, random = (values[name][metric] for name in ("oracle", "topk", "random"))
    assert min(oracle) > max(trained)
    assert min(trained) >= min(random)
    assert sum(trained) / len(trained) > sum(random) / len(random)


def test_the_oracle_scores_one(values):
    oracle = values["oracle"]
    for metric in ("mcc", "truth_f1", "truth_precision", "truth_recall", "recovered", "uniqueness", "hierarchy_recall"):
        assert oracle[metric] == pytest.approx([1.0] * 3), metric
    assert oracle["temporal_fidelity"] == pytest.approx([1.0] * 3)
    assert oracle["shrinkage"] == pytest.approx([1.0] * 3, rel=1e-5)
    assert oracle["fvu"] == pytest.approx([0.0] * 3, abs=1e-8)
    assert oracle["absorbed_pairs"] == oracle["splitting"] == [0.0] * 3


def test_a_permuted_decoder_detects_nothing(values):
    assert max(values["permuted_decoder"]["truth_f1"]) < 0.3
    assert min(values["permuted_decoder"]["fvu"]) > 1.0


def test_a_record_tells_its_world_and_what_was_skipped(bench, values):
    record = bench.find_record(jobs_of(bench, "topk")[0])
    assert record is not None
    assert record.protocol.lm == "world of 32 features in 16 dimensions"
    assert (record.protocol.hookpoint, record.protocol.seq_len, record.protocol.d_in) == ("as generated", 32, 16)
    assert record.protocol.tokenizer_sha256 == ""
    assert record.evaluations["behaviour"].status == "skipped"
    assert record.evaluations["ground_truth"].status == "done"
    oracle = bench.find_record(jobs_of(bench, "oracle")[0])
    assert oracle is not None
    assert oracle.method.control
    assert json.loads(str(oracle.method.options["world"]))["n_features"] == 32


def test_keys_follow_the_world(bench, suite, root):
    assert suite.world is not None

    def with_world(**changes):
        data = {name: getattr(suite.world, name) for name in suite.world.__dataclass_fields__}
        return bench_of(suite.replace(world=type(suite.world)(**{**data, **changes})), root)

    def keys(found: Bench) -> list[str]:
        return [artefact_key("store", found.store_key_inputs(split), 1) for split in ("train", "eval")]

    train, held_out = keys(bench)
    assert keys(with_world(n_eval_sequences=61))[0] == train
    assert keys(with_world(n_eval_sequences=61))[1] != held_out
    for changes in ({"seed": 1}, {"emission": 0.9}, {"seq_len": 16}):
        changed = keys(with_world(**changes))
        assert changed[0] != train
        assert changed[1] != held_out
        assert with_world(**changes).lm_source.weights_sha256 != bench.lm_source.weights_sha256
    assert bench.protocol(16).train_data != bench.protocol(16).eval_data


def test_the_held_out_store_comes_with_its_truth(bench, values):
    store = bench.store("eval", Quiet())
    assert isinstance(store, WorldStore)
    assert store.truth.n_features == 32
    assert not isinstance(bench.store("train", Quiet()), WorldStore)


def test_there_is_no_language_model_and_no_text(bench):
    assert bench.language_model is None
    with pytest.raises(ConfigError, match="'planted' is a synthetic world: it has no language model and no text"):
        _ = bench.text_source


def test_an_oracle_needs_a_world(root):
    tiny = load_registry([Path(__file__).parents[1] / "registry.yaml"]).suite("tiny")
    bench = bench_of(tiny, root)
    with pytest.raises(ConfigError, match="oracle knows the true features, and suite 'tiny' has none"):
        jobs_of(bench, "oracle")


def test_leaderboard_ranks_methods_and_only_shows_what_knows_the_answers(root, values):
    data = json.loads(cli(root, "leaderboard", "--suite", "planted", "--by", "truth_f1", "--json"))
    ranks = {entry["label"]: entry["rank"] for entry in data["entries"]}
    assert ranks == {"topk": 1, "oracle": None, "permuted_decoder": None, "random": None}


def test_compare_and_show_work_on_a_world(root, values):
    shown = json.loads(cli(root, "suites", "show", "planted", "--json"))
    assert shown["world"]["n_features"] == 32
    table = cli(root, "compare", "topk", "--baseline", "random", "--suite", "planted", "--quiet")
    assert "truth_f1" in table
    assert "world of 32 features" in table
