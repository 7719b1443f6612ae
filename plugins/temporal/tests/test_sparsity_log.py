"""L0 by position is counted in octaves, the same for every form of codes."""

from __future__ import annotations

import torch
from sae_harness_temporal.sparsity_log import l0_by_octave, logged_octaves, octaves

from harness import RaggedCodes, SparseCodes, TrainingLog


def test_positions_fall_into_octaves():
    assert octaves(torch.tensor([0, 1, 2, 3, 4, 7, 8, 127, 128])).tolist() == [0, 1, 2, 2, 3, 3, 4, 7, 8]


def test_every_form_of_codes_gives_the_same_l0():
    dense = torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    position = torch.tensor([1, 6, 5, 9])
    wanted = {"l0_from_1": 2.0, "l0_from_4": 2.0, "l0_from_8": 0.0}
    assert l0_by_octave(dense, position) == wanted
    indices = torch.arange(3).expand(4, 3)
    assert l0_by_octave(SparseCodes(indices, dense), position) == wanted
    # A slot that holds 0 is not active.
    ragged = RaggedCodes(indices.flatten(), torch.arange(0, 13, 3), dense.flatten())
    assert l0_by_octave(ragged, position) == wanted


def test_the_log_gives_octaves_by_rising_position():
    rows = [{"step": 0.0, "trainer/l0_from_16": 3.0, "trainer/l0_from_1": 9.0}, {"step": 5.0, "trainer/l0_from_1": 8.0}]
    found = logged_octaves(TrainingLog(rows=rows))
    assert found == [("1", [0.0, 5.0], [9.0, 8.0]), ("16–31", [0.0], [3.0])]
    assert logged_octaves(TrainingLog()) == []
