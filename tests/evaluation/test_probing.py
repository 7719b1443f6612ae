"""Probing tasks: a planted latent is found, chance is chance, and test texts decide nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.data.labelled import LabelledSet, Sizes, sample
from harness.errors import DataError
from harness.evaluation.metrics import dense
from harness.evaluation.probing import PooledCodes, mean_rows, probe, tasks_of
from harness.interfaces.sae import RaggedCodes

SIZES = Sizes(train=40, validation=20, test=40)
D = 30
PLANTED = 11


def labelled(name: str, labels, n: int = 400) -> LabelledSet:
    texts = tuple(f"text {i:03d}" for i in range(n))
    return LabelledSet(name=name, texts=texts, labels=labels, classes=("no", "yes"), licence="CC0", source="made")


@pytest.fixture(scope="module")
def tasks():
    generator = torch.Generator().manual_seed(0)
    even = tuple(i % 2 for i in range(400))
    coin = tuple(torch.randint(0, 2, (400,), generator=generator).tolist())
    return tasks_of([sample(labelled("coin", coin), SIZES, 0), sample(labelled("even", even), SIZES, 0)])


def features_of(tasks, *, noise_seed: int = 1, scale: float = 1.0):
    """Noise that fires now and then, and latent 11, which fires on texts of odd number."""
    generator = torch.Generator().manual_seed(noise_seed)
    table = torch.relu(torch.randn(400, D, generator=generator) - 0.5)
    table[:, PLANTED] = torch.arange(400) % 2 * 0.1
    numbers = torch.tensor([int(text.split()[1]) for text in tasks.texts])
    return lambda texts: scale * table[numbers[texts]]


def test_a_planted_latent_is_found_by_one_latent(tasks):
    results = probe(features_of(tasks), tasks, ks=(1, 5), published_ks=(1,))
    assert float(results.top[1].auc[1]) == 1.0
    assert float(results.top[1].accuracy[1]) == 1.0
    assert float(results.top[1].f1[1]) == 1.0
    assert float(results.full.auc[1]) > 0.95


def test_a_weak_latent_is_missed_by_the_published_choice_alone(tasks):
    """|difference of means| prefers loud latents: why ours also tries the difference over the deviation."""
    scaled = features_of(tasks)

    def loud(texts):
        table = scaled(texts).clone()
        table[:, :PLANTED] *= 100
        return table

    results = probe(loud, tasks, ks=(1,), published_ks=(1,))
    assert float(results.top[1].auc[1]) == 1.0
    assert float(results.published[1].auc[1]) < 0.7


def test_labels_at_random_give_chance(tasks):
    results = probe(features_of(tasks), tasks, ks=(1, 5), published_ks=(1,))
    for scores in (*results.top.values(), results.full, *results.published.values()):
        assert abs(float(scores.auc[0]) - 0.5) < 3 * float(scores.auc_stderr[0])
        assert abs(float(scores.accuracy[0]) - 0.5) < 3 * float(scores.accuracy_stderr[0])
    assert abs(float(results.full_validation_auc[0]) - 0.5) < 3 * float(results.full_validation_auc_stderr[0])


def test_the_scale_of_an_sae_does_not_matter_to_ours(tasks):
    one, other = (probe(features_of(tasks, scale=scale), tasks, ks=(1, 5), published_ks=(1,)) for scale in (1, 1000))
    for k in (1, 5):
        assert torch.allclose(one.top[k].auc, other.top[k].auc, atol=1e-9)
    assert torch.allclose(one.full.auc, other.full.auc, atol=1e-9)


def test_test_texts_decide_nothing(tasks):
    """With other features on the test texts alone, the validation scores, from which all is chosen, stay."""
    plain = features_of(tasks)
    tested = set(tasks.test.texts.flatten().tolist())

    def spoiled(texts):
        mask = torch.tensor([[text in tested] for text in texts.tolist()])
        return torch.where(mask, 0.0, plain(texts))

    one, other = (probe(f, tasks, ks=(1,), published_ks=(1,)) for f in (plain, spoiled))
    assert torch.equal(one.full_validation_auc, other.full_validation_auc)
    assert not torch.equal(one.top[1].auc, other.top[1].auc)


def test_a_task_does_not_depend_on_the_others(tasks):
    alone = tasks_of([sample(labelled("even", tuple(i % 2 for i in range(400))), SIZES, 0)])
    one = probe(features_of(alone), alone, ks=(2,), published_ks=(1,))
    both = probe(features_of(tasks), tasks, ks=(2,), published_ks=(1,))
    assert float(one.top[2].auc[0]) == pytest.approx(float(both.top[2].auc[1]), abs=1e-9)
    assert float(one.published[1].accuracy[0]) == pytest.approx(float(both.published[1].accuracy[1]), abs=1e-9)


def test_more_latents_than_there_are_means_all(tasks):
    results = probe(features_of(tasks), tasks, ks=(50,), published_ks=(50,))
    assert 0 <= float(results.top[50].auc[1]) <= 1


def test_codes_are_pooled_over_the_tokens_of_each_text():
    generator = torch.Generator().manual_seed(3)
    codes = torch.relu(torch.randn(9, 7, generator=generator))
    text = torch.tensor([0, 0, 0, 1, 2, 2, 3, 3, 3])
    found = codes.nonzero()
    counts = (codes != 0).sum(1)
    ragged = RaggedCodes(found[:, 1], torch.cat([counts.new_zeros(1), counts.cumsum(0)]), codes[codes != 0])
    assert torch.equal(dense(ragged, 7), codes)
    expected = torch.stack([codes[text == i].mean(0) for i in range(4)])
    whole = PooledCodes(7)
    whole.add(ragged, text)
    assert torch.allclose(whole.features(torch.tensor([3, 0, 1, 2])), expected[[3, 0, 1, 2]])
    assert torch.allclose(mean_rows([(codes[:4], text[:4]), (codes[4:], text[4:])], 4), expected)


def test_a_text_without_a_code_is_zero():
    pooled = PooledCodes(3)
    pooled.add(RaggedCodes(torch.empty(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), torch.empty(0)),
               torch.tensor([0, 1]))  # fmt: skip
    assert torch.equal(pooled.features(torch.tensor([1, 0])), torch.zeros(2, 3))


def test_the_hash_of_tasks_follows_all_that_probes_see():
    def hashed(name="even", word="text", flip=0, seed=0) -> str:
        labels = tuple((i + flip) % 2 for i in range(400))
        own = labelled(name, labels)
        texts = tuple(text.replace("text", word) for text in own.texts)
        return tasks_of([sample(dataclasses.replace(own, texts=texts), SIZES, seed)]).sha256

    assert hashed() == hashed()
    assert len({hashed(), hashed(name="odd"), hashed(word="Text"), hashed(flip=1), hashed(seed=1)}) == 5


def test_no_task_is_refused():
    with pytest.raises(DataError, match="no task to probe"):
        tasks_of([])
