"""Suite and methods to records: what is reused, what is made again, and what happens when something goes wrong."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from pathlib import Path

import pytest

from harness.artefacts.cache import Cache, CacheWarning
from harness.bench import RECORD_VERSION, TRAIN_VERSION, Bench, Job
from harness.cli.progress import BarProgress
from harness.compute import Compute
from harness.errors import CacheError, ConfigError, DiskSpaceError, HookpointError, NonFiniteError, RecordError
from harness.methods import build, resolve_method
from harness.pipeline import evaluate, run, train
from harness.plugins import load_catalogue
from harness.registry import load_registry
from harness.training.cohort import footprint

QUIET = BarProgress(quiet=True)
RUN = ("run", "topk", "--suite", "micro", "--quiet")


def bench_of(project, *, text=None, **changes) -> Bench:
    """The project's bench, with fields of its suite (and of its text) changed."""
    suite = load_registry([project.registry]).suite("micro").replace(**changes)
    if text:
        suite = suite.replace(text=dataclasses.replace(suite.text, **text))
    catalogue = load_catalogue({"SAE_HARNESS_PLUGINS": project.plugins})
    return Bench(suite, catalogue, Cache(project.cache))


def jobs_of(bench: Bench, name: str = "topk", **overrides) -> list[Job]:
    return bench.jobs(
        resolve_method(bench.catalogue, name, suite_options=bench.suite.options, overrides=overrides or None)
    )


def only(**grid):
    return {"l0_grid": (4,), "seeds": (0,), **grid}


# Training and recording


def test_every_l0_and_seed_gets_a_whole_record(micro):
    records = micro.json(*RUN)
    assert {(r["training"]["target_l0"], r["training"]["seed"]) for r in records} == {
        (l0, seed) for l0 in (2, 4, 8) for seed in (0, 1, 2)
    }
    assert len({r["sae_id"] for r in records}) == 9
    for record in records:
        assert record["training"]["steps"] == 32
        assert record["training"]["tokens"] == 4096
        assert record["evaluations"]["core"]["status"] == "done"
        assert record["metrics"]["l0"]["value"] == pytest.approx(record["training"]["target_l0"], rel=0.05)
        # Read off the objects: the suite's lr, a default, and the SAE's own k.
        options = record["method"]["options"]
        assert (options["lr"], options["beta1"], options["sae.k"]) == (0.01, 0.9, record["training"]["target_l0"])
        assert record["protocol"]["d_in"] == 32
        assert record["provenance"]["distributions"].keys() >= {"torch", "transformers", "sae-harness"}


def test_training_lowers_the_error_below_that_of_random_directions_and_identity_has_none(micro):
    def fvu(name: str, *extra: str) -> dict:
        records = micro.json("baselines", "show", name, "--suite", "micro", *extra)
        return {(r["training"]["target_l0"], r["training"]["seed"]): r["metrics"]["fvu"]["value"] for r in records}

    topk, random, pca = fvu("topk"), fvu("random"), fvu("pca")
    assert all(topk[place] < pca[place] < random[place] for place in topk)
    assert set(fvu("identity").values()) == {0.0}


def test_controls_take_no_step(micro):
    for name in ("identity", "random", "pca"):
        for record in micro.json("baselines", "show", name, "--suite", "micro"):
            training = record["training"]
            assert (training["steps"], training["tokens"], training["final_loss"]) == (0, 0, None)
            assert record["method"]["control"]


def test_an_sae_of_a_cohort_is_the_one_trained_alone(project, micro):
    shutil.rmtree(project.cache / "sae")
    shutil.rmtree(project.cache / "record")
    [alone] = run(bench_of(project, **only()), jobs_of(bench_of(project, **only())), progress=QUIET)
    together = [r for r in micro.json(*RUN) if (r["training"]["target_l0"], r["training"]["seed"]) == (4, 0)]
    assert project.stable([alone]) == project.stable(together)


def test_a_memory_limit_splits_the_cohort_and_changes_no_sae(project, micro, capsys):
    whole = project.stable([r for r in micro.json(*RUN) if r["training"]["target_l0"] == 4])
    shutil.rmtree(project.cache / "sae")
    shutil.rmtree(project.cache / "record")
    bench = bench_of(project, l0_grid=(4,))
    sizes = {"d_in": bench.store("train", QUIET).d_in, "d_sae": bench.suite.d_sae}
    _, sae = build(jobs_of(bench)[0].method, target_l0=4, **sizes)
    one = footprint("one", sae, bench.suite.batch_size)
    bench.compute = Compute(max_memory=2 * one.held + one.step)
    split = run(bench, jobs_of(bench), progress=BarProgress())
    assert "3 SAEs train in 2 parts" in capsys.readouterr().err
    assert project.stable(split) == whole


def test_a_memory_limit_no_sae_fits_in_is_told(micro):
    result = micro.invoke(*RUN, "--retrain", "--max-memory", "10kB")
    assert result.exit_code == 2
    assert "more than the limit of 10.0 kB. Raise --max-memory" in result.stderr


# What is reused


def test_a_second_run_makes_nothing(project):
    before = {p: p.stat().st_mtime_ns for kind in ("sae", "record") for p in project.artefacts(kind)}
    first = project.ok(*RUN)
    assert project.ok(*RUN) == first
    assert {p: p.stat().st_mtime_ns for kind in ("sae", "record") for p in project.artefacts(kind)} == before


MISSES = {
    "d_sae": {"d_sae": 65},
    "n_tokens": {"n_tokens": 4097},
    "batch_size": {"batch_size": 127},
    "store_dtype": {"store_dtype": "bfloat16"},
    "dead_after_fraction": {"dead_after_fraction": 0.2},
    "stream_seed": {"stream_seed": 1},
    "evaluation_seed": {"evaluation_seed": 1},
    "hookpoint": {"hookpoint": "blocks.1.hook_resid_post"},
    "seq_len": {"text": {"seq_len": 15}},
    "n_train_tokens": {"text": {"n_train_tokens": 4095}},
    "n_eval_sequences": {"text": {"n_eval_sequences": 25}},
    "eval_fraction": {"text": {"eval_fraction": 0.21}},
    "prepend_bos": {"text": {"prepend_bos": False}},
    "suite's option": {"options": {"topk": {"lr": 0.011}}},
    "evaluators": {"evaluators": ("core", "absent")},
    "evaluator's option": {"evaluator_options": {"core": {"size": 2}}},
    "seed": {"seeds": (3,)},
    "L0": {"l0_grid": (5,)},
}


@pytest.mark.parametrize("changed", MISSES)
def test_any_changed_input_misses(micro, changed):
    bench = bench_of(micro, **MISSES[changed])
    assert all(bench.find_record(job) is None for job in jobs_of(bench))


def test_an_option_of_the_caller_misses(micro):
    bench = bench_of(micro)
    assert all(bench.find_record(job) is None for job in jobs_of(bench, aux_weight=0.5))


def test_names_decide_nothing(micro):
    bench = bench_of(micro, summary="Another.", claim="another", controls=(), baselines=("relu",))
    assert all(bench.find_record(job) is not None for job in jobs_of(bench))


def test_a_changed_document_misses(project):
    project.with_own_inputs()
    bench = bench_of(project)
    assert all(bench.find_record(job) is not None for job in jobs_of(bench))
    text = project.root / "text.jsonl"
    text.write_text(text.read_text().replace("bak", "bal", 1))
    bench = bench_of(project)
    assert all(bench.find_record(job) is None for job in jobs_of(bench))


def test_a_changed_weight_misses(project):
    from safetensors.torch import load_file, save_file

    project.with_own_inputs()
    path = project.root / "lm" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, path, metadata={"format": "pt"})
    bench = bench_of(project)
    assert all(bench.find_record(job) is None for job in jobs_of(bench))


def test_changed_source_of_a_method_misses_and_other_methods_stay(micro, install_methods):
    package = install_methods()
    project = dataclasses.replace(micro, plugins="builtin,methods")
    before = bench_of(project).sae_inputs(jobs_of(bench_of(project), "drawn")[0])
    topk = bench_of(project).sae_inputs(jobs_of(bench_of(project))[0])
    source = package / "trainer.py"
    source.write_text(source.read_text().replace("strength: float = 0.01", "strength: float = 0.02"))
    after = bench_of(project).sae_inputs(jobs_of(bench_of(project), "drawn")[0])
    assert {k for k in before if before[k] != after[k]} == {"method_code"}
    assert bench_of(project).sae_inputs(jobs_of(bench_of(project))[0]) == topk


def test_source_edited_while_a_run_goes_on_does_not_get_its_results(micro, install_methods):
    package = install_methods()
    bench = bench_of(dataclasses.replace(micro, plugins="builtin,methods"))
    [job, *_] = jobs_of(bench, "drawn")
    before = bench.record_inputs(job)
    (package / "trainer.py").write_text("# edited\n")
    assert bench.record_inputs(job) == before


def test_an_evaluators_changed_source_evaluates_again_and_trains_nothing(project, install_methods, reload_methods):
    package = install_methods()
    project = dataclasses.replace(project, plugins="builtin,methods")
    bench = bench_of(project, **only(evaluators=("core", "moody")))
    run(bench, jobs_of(bench), progress=QUIET)
    saes, records = project.artefacts("sae"), project.artefacts("record")
    source = package / "evaluator.py"
    source.write_text(source.read_text().replace("value=1.0", "value=2.0"))
    reload_methods()
    bench = bench_of(project, **only(evaluators=("core", "moody")))
    [record] = run(bench, jobs_of(bench), progress=QUIET)
    assert record.metric("mood") == 2.0
    assert project.artefacts("sae") == saes
    assert len(project.artefacts("record")) == len(records) + 1


def test_an_evaluator_that_is_not_installed_is_skipped_with_the_reason(project):
    bench = bench_of(project, **only(evaluators=("core", "absent")))
    [record] = run(bench, jobs_of(bench), progress=QUIET)
    assert record.evaluations["absent"].status == "skipped"
    assert record.evaluations["absent"].reason == "evaluator not installed"
    assert not record.complete


def test_a_twin_is_the_sae_of_the_next_seed_and_part_of_the_key(project):
    bench = bench_of(project, evaluators=("core", "seed_stability"), l0_grid=(4,), seeds=(0, 1), n_tokens=512)
    jobs = jobs_of(bench)
    assert [bench.twin_of(job).seed for job in jobs] == [1, 0]
    records = run(bench, jobs, progress=QUIET)
    # Two SAEs are each other's twins: the matching is the same seen from either.
    cosines = [record.metric("twin_cosine") for record in records]
    assert cosines[0] == pytest.approx(cosines[1])
    assert 0 < cosines[0] < 1
    alone = bench_of(project, evaluators=("core", "seed_stability"), l0_grid=(4,), seeds=(0,), n_tokens=512)
    assert alone.twin_of(jobs_of(alone)[0]) is None
    assert alone.find_record(jobs_of(alone)[0]) is None
    (record,) = run(alone, jobs_of(alone), progress=QUIET)
    assert record.evaluations["seed_stability"].reason == "needs an SAE of the same method and another seed"


def test_options_that_a_suite_sets_reach_the_evaluator_and_its_record(project):
    bench = bench_of(project, evaluator_options={"geometry": {"size": 2}}, evaluators=("core", "geometry"), **only())
    (record,) = run(bench, jobs_of(bench), progress=QUIET)
    assert record.evaluations["geometry"].options == {"size": 2}
    assert "takes no options, got size" in record.evaluations["geometry"].reason
    assert record.evaluations["core"].options == {}


def test_retraining_gives_the_same_records(project, micro):
    bench = bench_of(project, **only())
    jobs = jobs_of(bench)
    saes = project.artefacts("sae")
    before = [bench.find_record(job) for job in jobs]
    stamps = [
        (bench.cache.find("sae", bench.sae_inputs(j), TRAIN_VERSION) / "sae.json").stat().st_mtime_ns for j in jobs
    ]
    again = run(bench, jobs, progress=QUIET, retrain=True)
    assert project.stable(again) == project.stable(before)
    assert [bench.find_record(job) for job in jobs] == again
    assert project.artefacts("sae") == saes
    remade = [
        (bench.cache.find("sae", bench.sae_inputs(j), TRAIN_VERSION) / "sae.json").stat().st_mtime_ns for j in jobs
    ]
    assert all(new > old for new, old in zip(remade, stamps, strict=True))


# What goes wrong


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip_a_byte, lambda path: path.write_bytes(path.read_bytes()[:-8])])
def test_a_corrupt_sae_in_the_cache_is_trained_again_with_a_warning(project, damage):
    bench = bench_of(project, **only())
    [job] = jobs_of(bench)
    wanted = bench.find_record(job)
    folder = bench.cache.find("sae", bench.sae_inputs(job), TRAIN_VERSION)
    bench.cache.remove("record", bench.record_inputs(job), RECORD_VERSION)
    damage(folder / "sae.safetensors")
    with pytest.warns(CacheWarning, match="corrupt"):
        [record] = run(bench, [job], progress=QUIET)
    assert project.stable([record]) == project.stable([wanted])
    assert bench.cache.verify() == []


def test_a_truncated_record_in_the_cache_is_made_again_with_a_warning(project):
    bench = bench_of(project, **only())
    [job] = jobs_of(bench)
    wanted = bench.find_record(job)
    path = bench.cache.find("record", bench.record_inputs(job), RECORD_VERSION) / "record.json"
    path.write_text(path.read_text()[:-9])
    with pytest.warns(CacheWarning, match="corrupt"):
        [record] = run(bench, [job], progress=QUIET)
    assert project.stable([record]) == project.stable([wanted])


def test_a_cached_record_of_a_newer_schema_is_refused(project):
    bench = bench_of(project, **only())
    [job] = jobs_of(bench)
    data = json.loads(bench.find_record(job).to_json())
    bench.cache.remove("record", bench.record_inputs(job), RECORD_VERSION)

    def newer(folder: Path) -> None:
        (folder / "record.json").write_text(json.dumps({**data, "schema_version": 99}))

    bench.cache.get_or_make("record", bench.record_inputs(job), RECORD_VERSION, newer)
    with pytest.raises(RecordError, match=r"newer sae-harness \(schema 99\)"):
        run(bench, [job], progress=QUIET)


def test_a_failed_evaluation_is_in_the_record_and_not_cached(project, install_methods, monkeypatch, capsys):
    install_methods()
    monkeypatch.setenv("FIXTURE_MOOD", "bad")
    bench = bench_of(dataclasses.replace(project, plugins="builtin,methods"), **only())
    jobs = jobs_of(bench, "drawn")
    [record] = run(bench, jobs, progress=QUIET)
    entry = record.evaluations["moody"]
    assert (entry.status, entry.reason) == ("failed", "RuntimeError: in a bad mood")
    assert record.evaluations["core"].status == "done"
    assert "mood" not in record.metrics
    assert bench.find_record(jobs[0]) is None
    assert "'moody' failed: RuntimeError: in a bad mood" in capsys.readouterr().err
    monkeypatch.delenv("FIXTURE_MOOD")
    [record] = run(bench, jobs, progress=QUIET)
    assert record.complete
    assert bench.find_record(jobs[0]) == record


def test_an_unknown_option_is_refused_before_anything_is_captured(fresh):
    bench = bench_of(fresh)
    with pytest.raises(ConfigError, match="unknown option 'bogus'"):
        run(bench, jobs_of(bench, bogus=1), progress=QUIET)
    assert not fresh.artefacts("activations")


def test_an_unknown_hookpoint_names_those_there_are(fresh):
    bench = bench_of(fresh, hookpoint="blocks.7.hook_resid_post")
    with pytest.raises(HookpointError, match=r"blocks\.7\.hook_resid_post"):
        run(bench, jobs_of(bench), progress=QUIET)


def test_nan_activations_are_refused_by_sequence_and_leave_no_store(fresh):
    from safetensors.torch import load_file, save_file

    shutil.copytree(Path(bench_of(fresh).suite.lm.source), fresh.root / "broken")
    path = fresh.root / "broken" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][5] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    lm = dataclasses.replace(bench_of(fresh).suite.lm, source=str(path.parent))
    bench = bench_of(fresh, lm=lm)
    with pytest.raises(NonFiniteError, match=r"activations of sequence \d+ at .* hold NaN or infinity"):
        run(bench, jobs_of(bench), progress=QUIET)
    assert not fresh.artefacts("activations")


def test_a_loss_that_is_not_finite_names_the_job_the_term_and_the_step(project):
    bench = bench_of(project, **only(options={"topk": {"lr": 1e30, "grad_clip": 0.0}}))
    with pytest.raises(NonFiniteError, match=r"topk L0 4 seed 0: .* step \d+ of 32"):
        run(bench, jobs_of(bench), progress=QUIET)


def test_a_full_disk_while_saving_an_sae_is_told_and_nothing_is_kept(project, monkeypatch):
    bench = bench_of(project, **only(stream_seed=1))

    def full(*_) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("harness.training.checkpoint.save_file", full)
    saes = project.artefacts("sae")
    with pytest.raises(DiskSpaceError, match="disk is full"):
        run(bench, jobs_of(bench), progress=QUIET)
    assert project.artefacts("sae") == saes
    monkeypatch.undo()
    assert len(run(bench, jobs_of(bench), progress=QUIET)) == 1


def test_an_unusable_cache_folder_is_told(fresh):
    (fresh.root / "cache").write_text("a file")
    bench = bench_of(fresh)
    with pytest.raises(CacheError, match=r"--cache FOLDER"):
        run(bench, jobs_of(bench), progress=QUIET)


def test_an_sae_that_vanishes_while_running_is_told(project, monkeypatch):
    bench = bench_of(project, **only(stream_seed=2))
    monkeypatch.setattr("harness.pipeline._keep_sae", lambda *_, **__: None)
    with pytest.raises(ConfigError, match="vanished from the cache"):
        train(bench, jobs_of(bench), progress=QUIET)


def test_what_another_process_evaluated_meanwhile_is_taken(project, monkeypatch):
    bench = bench_of(project, **only())
    jobs = jobs_of(bench)
    folders = train(bench, jobs, progress=QUIET)
    monkeypatch.setattr("harness.pipeline.measure", None)  # it would have to be called
    assert evaluate(bench, folders, progress=QUIET)[jobs[0]] == bench.find_record(jobs[0])
