"""Sparse probing as SAEBench defines it: on known cases, and beside the installed package."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.builtin.evaluators.probing_specs import SAEBENCH_SPARSE_PROBING, planted
from harness.builtin.evaluators.saebench_probing import SAEBenchProbingEvaluator
from harness.builtin.evaluators.scr_tpp_specs import planted as planted_classes
from harness.builtin.saes.topk import TopKSAE
from harness.errors import ConfigError, DataError
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.probing import PooledCodes
from harness.evaluation.probing_published import draw_sets, full_accuracies, sparse_accuracies, tasks_of
from harness.interfaces.sae import SAEConfig
from harness.testing.fixtures import D_IN, D_SAE, HOOKPOINT, TinyLM, identity_sae, tiny_store
from harness.testing.texts import PlantedTexts

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).parent / "peer_probing.py"
KS, SEEDS, K, LENGTH = (1, 2, 5), 8, 6, 6
N_TRAIN, N_TEST = 400, 200


def sae() -> TopKSAE:
    """Random directions; its biases make it fire on zeros, which the pools must not count."""
    found = TopKSAE(SAEConfig(architecture="topk", d_in=D_IN, d_sae=D_SAE, options={"k": K}))
    generator = torch.Generator().manual_seed(0)
    found.reset_parameters(generator)
    with torch.no_grad():
        found.b_dec.normal_(generator=generator).mul_(0.2)
    return found.requires_grad_(False).eval()


def rows(name: str = "class-sets") -> list[dict[str, str]]:
    """Two sets of the planted classes, each class's texts in two splits; a text has one token or as many as six."""
    found = []
    for number, row in enumerate(planted_classes(name)):
        split = "test" if number // 8 % 3 == 0 else "train"
        words = row["text"].split()
        some = " ".join(words[2 : 4 + number // 8 % 3])
        found.append({**row, "split": split})
        found.append({"text": f"{words[0]} {words[1]} {some}", "set": "short", "class": row["class"], "split": split})
    seen: dict[str, set[str]] = {}
    for row in found:
        seen.setdefault(row["text"], set()).add(row["set"] + row["class"])
    return [row for row in {row["text"]: row for row in found}.values() if len(seen[row["text"]]) == 1]


def context(seed: int = 0, given: Any = planted) -> StoreEvalContext:
    return StoreEvalContext(
        tiny_store(1, n_sequences=12),
        hookpoint=HOOKPOINT,
        data_id="tiny",
        seed=seed,
        language_model=TinyLM(),
        lm_sha256="tiny",
        texts=PlantedTexts(TinyLM(), rows=given),
    )


def measure(found: torch.nn.Module, where: StoreEvalContext, **options: Any) -> dict[str, float]:
    with torch.no_grad():
        metrics = SAEBenchProbingEvaluator(options).evaluate(found, where)  # type: ignore[arg-type]
    assert metrics.keys() == {metric.name for metric in SAEBENCH_SPARSE_PROBING.metrics}
    return {name: value.value for name, value in metrics.items()}


def table(n: int, **columns: Any) -> list[Mapping[str, Any]]:
    return [{"text": f"{c} {i}", "set": "s", "class": c, **columns} for c in ("a", "b", "c") for i in range(n)]


def test_a_class_that_is_one_latent_is_found_without_error():
    features = torch.randn(300, 12, generator=torch.Generator().manual_seed(0)).abs()
    features[:100, 7] += 100
    features[100:200, 3] += 100
    features[200:, 5] += 100
    given = table(100)
    names = sorted(row["text"] for row in given)
    owner = torch.tensor([("a", "b", "c").index(name[0]) for name in names])
    where = torch.stack([features[100 * c + i % 100] for i, c in enumerate(owner.tolist())])
    sets = draw_sets(given, set_column="set", class_column="class", n_train=80, n_test=20, seed=0)
    texts, tasks = tasks_of(sets, torch.Generator().manual_seed(0))
    place = torch.tensor([names.index(text) for text in texts])
    found = sparse_accuracies(lambda own: where[place[own]], tasks, KS)
    assert [value.tolist() for value in found.values()] == [[1.0] * 3] * 3
    full = full_accuracies(lambda own: where[place[own]], tasks, torch.Generator().manual_seed(0))
    assert full.tolist() == [1.0] * 3


def test_negatives_come_evenly_from_the_other_classes():
    sets = draw_sets(table(100), set_column="set", class_column="class", n_train=80, n_test=20, seed=3)
    assert [len(own) for own in (*sets[0].training, *sets[0].test)] == [40] * 3 + [10] * 3
    texts, tasks = tasks_of(sets, torch.Generator().manual_seed(0))
    for task in tasks:
        others = [texts[i][0] for i in task.training[task.training_labels == 0].tolist()]
        assert {others.count(c) for c in {"a", "b", "c"} - {task.name}} == {20}
        assert not set(task.training.tolist()) & set(task.test.tolist())


def test_texts_stay_in_their_split_and_attributes_are_balanced():
    given = [
        {"text": f"{c} {split} {a} {i}", "set": "s", "class": c, "split": split, "attribute": a}
        for c in ("x", "y")
        for split in ("train", "test")
        for a in ("m", "f")
        for i in range(30 if a == "m" else 20)
    ]
    [own] = draw_sets(given, set_column="set", class_column="class", n_train=4000, n_test=40, seed=1)
    assert [len(texts) for texts in (*own.training, *own.test)] == [40, 40, 20, 20]
    assert all(" train " in text for texts in own.training for text in texts)
    assert sum(" f " in text for text in own.test[0]) == 10


def test_another_seed_draws_other_texts():
    one, other = (
        draw_sets(table(100), set_column="set", class_column="class", n_train=40, n_test=20, seed=seed)
        for seed in (0, 1)
    )
    assert set(one[0].training[0]) != set(other[0].training[0])


def test_too_few_texts_are_told():
    with pytest.raises(DataError, match="none of 1 sets has two classes with 8 texts"):
        draw_sets(table(9), set_column="set", class_column="class", n_train=40, n_test=20, seed=0)
    with pytest.raises(DataError, match="A row has no topic: its columns are class, set, text"):
        draw_sets(table(9), set_column="topic", class_column="class", n_train=40, n_test=20, seed=0)
    with pytest.raises(ConfigError, match="has no option k"):
        SAEBenchProbingEvaluator({"k": 1})


def test_results_follow_from_the_seed_and_not_from_what_came_before():
    where = context()
    first = measure(identity_sae(), where)
    assert measure(identity_sae(), where) == first
    assert measure(identity_sae(), context()) == first
    assert measure(identity_sae(), context(1)) != first
    assert first["saebench_probing_llm_accuracy"] > 0.7


def _padded(texts: list[str]) -> np.ndarray:
    """[n, LENGTH, D_IN]."""
    found = torch.zeros(len(texts), LENGTH, D_IN)
    source = PlantedTexts(TinyLM())
    for batch in source.prompt_batches([(text,) for text in texts], LENGTH):
        found[batch.index, : batch.tokens.shape[1] - 1] = batch.activations[:, 1:]
    return found.numpy()


def _tasks() -> tuple[dict[str, np.ndarray], list[Tensor], list[str]]:
    """The tasks of seed 0 as the peer reads them, our accuracies by k, and names."""
    sets = draw_sets(rows(), set_column="set", class_column="class", n_train=N_TRAIN, n_test=N_TEST, seed=0)
    texts, tasks = tasks_of(sets, torch.Generator().manual_seed(0))
    padded = _padded(list(texts))
    inputs = {}
    for number, task in enumerate(tasks):
        for part, index, labels in (
            ("train", task.training, task.training_labels),
            ("test", task.test, task.test_labels),
        ):
            for label in (0, 1):
                inputs[f"task/{number}/{part}/{label}"] = padded[index[labels == label].numpy()]
    pooled = PooledCodes(D_SAE)
    where = context(given=rows)
    place = torch.zeros(len(texts), dtype=torch.int64)
    start = 0
    for batch in where.prompt_batches([(text,) for text in texts], max_tokens=LENGTH):
        counted = batch.part >= 0
        place[batch.index] = torch.arange(start, start + len(batch.index))
        own = torch.arange(start, start + len(batch.index)).repeat_interleave(counted.sum(1))
        start += len(batch.index)
        pooled.add(where.encode(sae(), batch.activations[counted]), own)
    found = sparse_accuracies(lambda own: pooled.features(place[own]), tasks, KS)
    return inputs, [found[k] for k in KS], [f"{task.set}: {task.name}" for task in tasks]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> dict[str, Any]:
    python = Path(os.environ.get("SAE_HARNESS_PEERS", ROOT / ".cache" / "peers")) / "sae_bench" / "bin" / "python"
    if not python.exists():
        pytest.skip(
            f"no environment with sae-bench at {python}: make one with pip install -r "
            "benchmarks/requirements/sae_bench.txt, and name the folder above it in SAE_HARNESS_PEERS"
        )
    inputs = {name: parameter.numpy() for name, parameter in sae().named_parameters()}
    inputs |= {"k": np.array(K), "ks": np.array(KS), "seeds": np.arange(SEEDS)}
    inputs |= {"n_train": np.array(N_TRAIN), "n_test": np.array(N_TEST)}
    pools: dict[str, list[str]] = {}
    for row in rows():
        pools.setdefault(f"pool/{row['set']}/{row['split']}/{row['class']}", []).append(row["text"])
    inputs |= {name: _padded(texts) for name, texts in pools.items()}
    inputs |= _tasks()[0]
    folder = tmp_path_factory.mktemp("saebench")
    np.savez(folder / "in.npz", **inputs)
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    # Its hints give one name to the texts of a class and to those of a probe, which newer jaxtyping refuses.
    environ["JAXTYPING_DISABLE"] = "1"
    command = [str(python), str(WORKER), str(folder / "in.npz"), str(folder / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "out.json").read_text())


@pytest.mark.slow
def test_on_the_same_texts_k_sparse_probes_are_those_of_the_installed_package(theirs):
    """No reseeding is left: pooling, choice of latents and regression are SAEBench's, to a text in two hundred."""
    _, ours, names = _tasks()
    for number, name in enumerate(names):
        for own, their, k in zip(ours, theirs["tasks"][str(number)], KS, strict=True):
            print(f"{name} top {k}: {float(own[number]):.4f} peer {their:.4f}")
            assert float(own[number]) == pytest.approx(their, abs=1.01 / N_TEST), (name, k)


@pytest.mark.slow
def test_every_number_agrees_within_twice_the_reseed_noise(theirs):
    ours = [measure(sae(), context(seed, rows), n_train=N_TRAIN, n_test=N_TEST) for seed in range(SEEDS)]
    assert ours[0]["probing_classes"] == 6
    for who in ("llm", "sae"):
        for own in ("", *(f"top{k}_" for k in KS)):
            mine = torch.tensor([found[f"saebench_probing_{who}_{own}accuracy"] for found in ours])
            field = f"{who}_{own.replace('top', 'top_')}test_accuracy"
            other = torch.tensor([found[field] for found in theirs["seeds"]])
            noise = max(float(mine.std()), float(other.std()))
            print(f"{field:26} {float(mine.mean()):.4f} peer {float(other.mean()):.4f} noise {noise:.4f}")
            assert abs(float(mine.mean() - other.mean())) <= 2 * noise, field
