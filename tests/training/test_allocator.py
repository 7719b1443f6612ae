"""Large blocks stay in the process while training, and only then."""

from __future__ import annotations

import resource

import pytest
import torch

from harness.training.allocator import _glibc, large_blocks_kept


def faults_of_fresh_blocks() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.empty(2**24).fill_(1.0)  # 64 MiB, above the size that glibc maps anew each time
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(_glibc() is None, reason="glibc only")
def test_blocks_are_reused_inside_and_given_back_after():
    outside = faults_of_fresh_blocks()
    with large_blocks_kept():
        faults_of_fresh_blocks()
        inside = faults_of_fresh_blocks()
    assert inside < outside / 10
    assert faults_of_fresh_blocks() > 10 * max(inside, 1)


def test_an_error_inside_ends_it_too():
    with pytest.raises(ZeroDivisionError), large_blocks_kept():
        raise ZeroDivisionError
    torch.empty(2**20).fill_(1.0)
