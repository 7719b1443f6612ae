"""What is declared: found through the entry point, without torch, controls and faulty presets marked as such."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sae_harness_sparsity_guided_orthogonality.plugin import register_trainers

from harness.methods import resolve_method

NAME = "sparsity_guided_orthogonality"
(SPEC,) = register_trainers()
LITERAL = ("seed001_run1", "seed001_run2", "seed001_run3", "seed001_k80")
LISTING = f"""
import sys
import sae_harness_{NAME}.plugin as plugin
print([spec.name for spec in plugin.register_trainers()], "torch" in sys.modules)
"""


def test_listing_loads_no_torch():
    done = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == f"['{NAME}'] False", done.stderr


@pytest.mark.parametrize("preset", SPEC.presets)
def test_each_preset_resolves_and_neither_controls_nor_mistakes_are_ranked(preset, catalogue, make_job):
    make_job(f"{NAME}@{preset}")
    unranked = preset in ("off", "random_pairs") or preset in LITERAL
    assert resolve_method(catalogue, f"{NAME}@{preset}").ranked is not unranked


def test_the_default_preset_is_the_default(make_job):
    assert make_job(f"{NAME}@default").trainer.options == make_job(NAME).trainer.options


def test_the_control_differs_from_the_default_in_the_pairs_alone(make_job):
    plain, control = (make_job(name).trainer.options for name in (NAME, f"{NAME}@random_pairs"))
    differing = {name for name in plain.__dataclass_fields__ if getattr(plain, name) != getattr(control, name)}
    assert differing == {"partners"}
