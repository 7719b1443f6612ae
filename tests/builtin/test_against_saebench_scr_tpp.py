"""Our `saebench_` variants of SCR and TPP beside SAEBench's own functions, on the same SAE, activations and split.

Needs SAEBench's environment, which benchmarks/ makes: `SAE_HARNESS_PEERS` names the folder that holds it, as
`sae_bench` [default: .cache/peers, where the benchmarks put it].
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.builtin.evaluators.scr import ScrEvaluator
from harness.builtin.evaluators.scr_tpp_specs import planted
from harness.builtin.evaluators.tpp import TppEvaluator
from harness.builtin.saes.topk import TopKSAE
from harness.evaluation.attribute_tasks import ClassTask, Pair, Pairs, Sizes, Texts, classes_of, pairs_of
from harness.evaluation.codes import encode
from harness.evaluation.concept_ablation import (
    PooledCodes,
    Probes,
    accuracy,
    decoder_products,
    effects_of,
    logits_after,
    mean_rows,
    padded_codes,
    published_choice,
)
from harness.evaluation.context import StoreEvalContext
from harness.interfaces.sae import SAEConfig
from harness.testing.fixtures import D_IN, D_SAE, HOOKPOINT, TinyLM, tiny_store
from harness.testing.texts import PlantedTexts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).parent / "peer_scr_tpp.py"
SEEDS, K, LENGTH = 8, 6, 10
NS = (2, 5, 10, 20, 50)
SCR_SIZES, TPP_SIZES = Sizes(train=64, validation=32, test=64), Sizes(train=96, validation=48, test=96)


def sae() -> TopKSAE:
    """Random directions; its biases make it fire on zeros, so that the published fault of padding shows."""
    found = TopKSAE(SAEConfig(architecture="topk", d_in=D_IN, d_sae=D_SAE, options={"k": K}))
    generator = torch.Generator().manual_seed(0)
    found.reset_parameters(generator)
    with torch.no_grad():
        found.b_dec.normal_(generator=generator).mul_(0.2)
    return found.requires_grad_(False).eval()


class Reseeded(StoreEvalContext):
    """The same texts and split, other probes."""

    def __init__(self, reseed: int) -> None:
        super().__init__(
            tiny_store(1, n_sequences=12),
            hookpoint=HOOKPOINT,
            data_id="tiny",
            seed=0,
            language_model=TinyLM(),
            lm_sha256="tiny",
            texts=PlantedTexts(TinyLM(), rows=planted),
        )
        self._reseed = reseed

    def generator(self, purpose: str) -> torch.Generator:
        return super().generator(f"{purpose} {self._reseed}")


def _padded(texts: tuple[str, ...]) -> Tensor:
    """[n, LENGTH, D_IN]: of all texts."""
    source = PlantedTexts(TinyLM(), rows=planted)
    found = torch.zeros(len(texts), LENGTH, D_IN)
    for batch in source.activations(texts, max_tokens=LENGTH, last_tokens=LENGTH):
        for text in batch.text.unique().tolist():
            own = batch.rows[batch.text == text]
            found[text, : len(own)] = own
    return found


def _both(parts: tuple[Texts, Texts], label: int) -> Tensor:
    return torch.cat([part.texts[part.labels == label] for part in parts])


def _scr_inputs(pair: Pair, padded: Tensor) -> dict[str, np.ndarray]:
    found = {}
    for part, own in (("train", (pair.training, pair.selection)), ("test", (pair.test, pair.test))):
        for number, (one, zero) in enumerate((("target1", "target0"), ("spurious1", "spurious0"), ("both", "neither"))):
            texts = (own[0].probes()[number], own[1].probes()[number])
            for label, key in ((1, one), (0, zero)):
                index = _both(texts, label) if part == "train" else _both((texts[0],), label)  # type: ignore[arg-type]
                found[f"scr/{pair.name.replace('/', '-')}/{part}/{key}"] = padded[index].numpy()
    return found


def _tpp_inputs(task: ClassTask, padded: Tensor) -> dict[str, np.ndarray]:
    train, test = _both((task.training, task.selection), 1), _both((task.test,), 1)  # type: ignore[arg-type]
    name = f"tpp/{task.set}"
    return {f"{name}/train/{task.name}": padded[train].numpy(), f"{name}/test/{task.name}": padded[test].numpy()}


def _pairs() -> Pairs:
    rows = tuple(planted("vader-attributes"))
    return pairs_of(rows, target="source", spurious="sentiment", sizes=SCR_SIZES, seed=0)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> dict[str, Any]:
    """Each metric of SAEBench, by seed, and `detail`: probes and accuracies of the first seed."""
    python = Path(os.environ.get("SAE_HARNESS_PEERS", ROOT / ".cache" / "peers")) / "sae_bench" / "bin" / "python"
    if not python.exists():
        pytest.skip(
            f"no environment with sae-bench at {python}: make one with pip install -r "
            "benchmarks/requirements/sae_bench.txt, and name the folder above it in SAE_HARNESS_PEERS"
        )
    pairs = _pairs()
    rows = tuple(planted("class-sets"))
    classes = classes_of(rows, set_column="set", class_column="class", sizes=TPP_SIZES, seed=0)
    inputs = {name: parameter.numpy() for name, parameter in sae().named_parameters()}
    inputs |= {"k": np.array(K), "ns": np.array(NS), "seeds": np.arange(SEEDS)}
    for pair in pairs.pairs:
        inputs |= _scr_inputs(pair, _padded(pairs.texts))
    for task in classes.tasks:
        inputs |= _tpp_inputs(task, _padded(classes.texts))
    folder = tmp_path_factory.mktemp("saebench")
    np.savez(folder / "in.npz", **inputs)
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(python), str(WORKER), str(folder / "in.npz"), str(folder / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "out.json").read_text())


def _ours(evaluator: ScrEvaluator | TppEvaluator) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for reseed in range(SEEDS):
        with torch.no_grad():
            metrics = evaluator.evaluate(sae(), Reseeded(reseed))
        for metric, value in metrics.items():
            found.setdefault(metric, []).append(value.value)
    return found


def _compare(ours: dict[str, list[float]], theirs: dict[str, Any], names: dict[str, str]) -> None:
    """Means over seeds within twice the reseed noise: the larger of the two standard deviations over seeds."""
    for mine, their in names.items():
        for n in NS:
            a, b = (torch.tensor(values) for values in (ours[mine.format(n)], theirs[their.format(n)]))
            noise = max(float(a.std()), float(b.std()))
            difference = float(a.mean() - b.mean())
            print(f"{mine.format(n):24} {float(a.mean()):+.4f} peer {float(b.mean()):+.4f} noise {noise:.4f}")
            assert abs(difference) <= 2 * noise, (mine.format(n), difference, noise)


def test_with_the_same_probes_the_accuracies_after_ablation_are_the_same(theirs):
    """No reseeding is left: choice of latents, ablation and padding are SAEBench's."""
    pairs, dictionary = _pairs(), sae()
    source = PlantedTexts(TinyLM(), rows=planted)
    batches = list(source.activations(pairs.texts, max_tokens=LENGTH, last_tokens=LENGTH))
    pooled, n_tokens = PooledCodes(D_SAE), torch.bincount(torch.cat([batch.text for batch in batches]))
    for batch in batches:
        pooled.add(encode(dictionary, batch.rows), batch.text)
    means = mean_rows([(batch.rows, batch.text) for batch in batches], len(pairs.texts))
    at_zero = dictionary.encode(torch.zeros(1, D_IN))[0]
    assert float(at_zero.max()) > 0
    for pair in pairs.pairs:
        detail = theirs["detail"][pair.name.replace("/", "-")]
        given = torch.tensor(detail["probes"], dtype=torch.float64)
        products = decoder_products(dictionary, given[:, :-1])
        test = pair.test.balanced
        before = Probes(given[2:, :-1], given[2:, -1]).logits(means[test][None])[0]
        codes = pooled.features(torch.cat([pair.training.balanced, pair.selection.balanced]))
        for way, (measured, ablated) in enumerate((("target", "spurious"), ("spurious", "target"))):
            labels = torch.cat([getattr(pair.training, ablated), getattr(pair.selection, ablated)])
            effects = effects_of(codes, labels, products[:, 1 - way], positive_only=False)
            order = published_choice(effects, NS[-1])
            here = padded_codes(pooled.features(test)[:, order], at_zero[order], n_tokens[test], LENGTH)
            after = accuracy(logits_after(before, here, products[order, 2], NS), getattr(pair.test, measured))
            wanted = torch.tensor([row[way] for row in detail["after"]], dtype=torch.float64)
            # A logit within rounding of 0 may fall on the other side.
            torch.testing.assert_close(after, wanted, rtol=0, atol=1.01 / len(test))


def test_scr_agrees_within_twice_the_reseed_noise(theirs):
    sizes = {"n_train": 4 * SCR_SIZES.train, "n_selection": 4 * SCR_SIZES.validation, "n_test": 4 * SCR_SIZES.test}
    ours = _ours(ScrEvaluator({**sizes, "max_tokens": LENGTH}))
    _compare(
        ours,
        theirs,
        {
            "saebench_scr_n{}": "scr_metric_threshold_{}",
            "saebench_scr_dir1_n{}": "scr_dir1_threshold_{}",
            "saebench_scr_dir2_n{}": "scr_dir2_threshold_{}",
        },
    )


def test_tpp_agrees_within_twice_the_reseed_noise(theirs):
    sizes = {"n_train": 2 * TPP_SIZES.train, "n_selection": 2 * TPP_SIZES.validation, "n_test": 2 * TPP_SIZES.test}
    ours = _ours(TppEvaluator({**sizes, "max_tokens": LENGTH}))
    _compare(ours, theirs, {"saebench_tpp_n{}": "tpp_threshold_{}_total_metric"})
