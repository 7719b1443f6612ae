"""What is declared: found through the entry point, without torch, controls and faulty presets marked as such."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sae_harness_hierarchical_unlearning.plugin import register_trainers

from harness.methods import resolve_method

PRESETS = [f"{spec.name}@{preset}" for spec in register_trainers() for preset in spec.presets]
LISTING = """
import sys
import sae_harness_hierarchical_unlearning.plugin as plugin
names = [s.name for hook in (plugin.register_trainers, plugin.register_evaluators, plugin.register_analyses)
         for s in hook()]
print(len(names), "torch" in sys.modules)
"""


def test_listing_loads_no_torch():
    done = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "10 False", done.stderr


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_resolves_and_neither_controls_nor_mistakes_are_ranked(name, catalogue, make_job):
    make_job(name)
    unranked = name.endswith(("@off", "@seed002"))
    assert resolve_method(catalogue, name).ranked is not unranked
