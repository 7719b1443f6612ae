"""The kit's planted texts: two tasks that activations carry, and one that nothing does."""

from __future__ import annotations

import torch

from harness.evaluation.probing import mean_rows, probe, tasks_of
from harness.interfaces.labelled import Sizes
from harness.testing.fixtures import TinyLM
from harness.testing.texts import PlantedTexts

SIZES = Sizes(train=24, validation=16, test=16)


def test_planted_tokens_are_read_from_the_activations_and_the_coin_is_not():
    lm = TinyLM()
    planted = PlantedTexts(lm)
    tasks = tasks_of(planted.samples("any", SIZES, 0))
    parts = planted.activations(tasks.texts, max_tokens=8, last_tokens=8)
    pooled = mean_rows(((part.rows, part.text) for part in parts), len(tasks.texts))
    results = probe(lambda texts: pooled[texts], tasks, ks=(1,), published_ks=(1,))
    assert tasks.names == ("coin", "marked", "starred")
    counted = results.full_validation_auc - 0.5 > 2 * results.full_validation_auc_stderr
    assert counted.tolist() == [False, True, True]
    assert lm.n_calls > 0


def test_texts_are_the_same_in_batches_of_any_size():
    def rows(size: int) -> torch.Tensor:
        parts = PlantedTexts(TinyLM(), batch_texts=size).activations(
            ["8 9", "10", "7 8 9"], max_tokens=2, last_tokens=2
        )
        return torch.cat([part.rows for part in parts])

    assert torch.allclose(rows(1), rows(3))
