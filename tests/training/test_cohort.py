"""What SAEs take in memory, and the parts a cohort falls into."""

from __future__ import annotations

import pytest
import torch

from harness.builtin.saes.relu import ReluSAE
from harness.errors import ConfigError
from harness.interfaces.sae import SAEConfig
from harness.training.cohort import Footprint, at_once, footprint, parts


def sizes(*held: int, step: int = 10) -> list[Footprint]:
    return [Footprint(label=f"sae {i}", held=h, step=step) for i, h in enumerate(held)]


def test_a_footprint_counts_weights_averages_gradients_and_buffers():
    sae = ReluSAE(SAEConfig(architecture="relu", d_in=10, d_sae=100))
    weights = 4 * (10 * 100 * 2 + 100 + 10)
    one = footprint("x", sae, 50)
    assert one.held == 3 * weights + 800
    assert one.step == weights + 4 * 10 * 100 + 7 * 50 * 100 * 4
    assert footprint("x", sae, 50, passes=2).step == weights + 4 * 10 * 100 + 14 * 50 * 100 * 4


def test_all_that_fit_train_together_and_share_one_step():
    assert parts(sizes(30, 30, 30), limit=100) == [[0, 1, 2]]
    assert parts(sizes(30, 30, 30), limit=99) == [[0, 1], [2]]
    assert parts(sizes(30, 30, 30), limit=40) == [[0], [1], [2]]
    assert parts([], limit=1) == []


def test_the_largest_step_of_a_part_counts():
    mixed = [*sizes(30, step=10), *sizes(30, step=50)]
    assert parts(mixed, limit=110) == [[0, 1]]
    assert parts(mixed, limit=109) == [[0], [1]]


def test_saes_that_step_at_the_same_time_need_room_for_each_step():
    mixed = [*sizes(30, step=10), *sizes(30, step=50), *sizes(30, step=20)]
    assert parts(mixed, limit=160, at_once=2) == [[0, 1, 2]]
    assert parts(mixed, limit=159, at_once=2) == [[0, 1], [2]]
    assert parts(mixed, limit=170, at_once=8) == [[0, 1, 2]]
    assert parts(mixed, limit=169, at_once=8) == [[0, 1], [2]]


def test_small_saes_step_at_once_and_large_ones_take_all_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    assert at_once(1024, 192, 1536, "cpu") == 6
    assert at_once(2048, 768, 12288, "cpu") == 1
    assert at_once(1024, 192, 1536, "cuda:0") == 1


def test_an_sae_that_does_not_fit_alone_is_told_with_both_sizes():
    with pytest.raises(ConfigError, match=r"sae 1 needs about 2\.1 GB.*limit of 1\.1 GB.*--max-memory"):
        parts(sizes(2**20, 2 * 2**30, step=0), limit=2**30)
