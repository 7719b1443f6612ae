"""Devices, precision and memory limits, and how mistakes in them are told."""

from __future__ import annotations

import pytest

from harness.compute import Compute, machine_memory
from harness.errors import ConfigError


def test_bfloat16_is_for_gpus():
    with pytest.raises(ConfigError, match="needs a GPU"):
        Compute(precision="bfloat16")
    assert Compute(device="cuda:1", precision="bfloat16").kind == "cuda"
    with pytest.raises(ConfigError, match="allowed are float32 and bfloat16"):
        Compute(precision="float16")  # type: ignore[arg-type]


def test_a_given_limit_is_taken_and_none_is_a_share_of_the_machine():
    assert Compute(max_memory=5).memory_limit() == 5
    assert Compute().memory_limit() == int(0.8 * machine_memory())
    assert 2**28 < machine_memory() < 2**50
    with pytest.raises(ConfigError, match="above 0"):
        Compute(max_memory=0)
