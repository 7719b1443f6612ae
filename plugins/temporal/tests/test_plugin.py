"""What is declared: found through the entry point, without torch, controls marked as such."""

from __future__ import annotations

import subprocess
import sys

from harness.methods import resolve_method

ANALYSES = [
    "temporal_stability",
    "feature_clusters",
    "position_analysis",
    "event_boundaries",
    "sparsity_analysis",
    "strength_traces",
]
LISTING = """
import sys
import sae_harness_temporal.plugin as plugin
specs = [*plugin.register_trainers(), *plugin.register_evaluators(), *plugin.register_analyses()]
print([spec.name for spec in specs], "torch" in sys.modules)
"""


def test_listing_loads_no_torch():
    done = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True, timeout=60)
    names = ["temporal", "temporal_contiguous", "temporal_stability", *ANALYSES]
    assert done.stdout.strip() == f"{names} False", done.stderr


def test_each_preset_resolves_and_the_controls_are_not_ranked(catalogue, make_job):
    spec = catalogue.trainer("temporal").spec
    ranked = {name: resolve_method(catalogue, f"temporal@{name}").ranked for name in spec.presets}
    unranked = {
        "shuffled",
        "off",
        "same_lr_control",
        "spec003",
        "spec003_detached",
        *(f"seed003_run{n}" for n in range(1, 8)),
    }
    assert {name for name, is_ranked in ranked.items() if not is_ranked} == unranked
    assert ranked["rel_default"]
    for name in spec.presets:
        make_job(f"temporal@{name}")


def test_the_base_decides_how_sparsity_is_set(catalogue):
    assert resolve_method(catalogue, "temporal").sparsity == "k"
    assert resolve_method(catalogue, "temporal@relu").sparsity == "coefficient"
    assert resolve_method(catalogue, "temporal").needs == {"pairs"}


def test_the_default_preset_is_the_default(make_job):
    assert make_job("temporal@rel_default").trainer.options == make_job("temporal").trainer.options


def test_shuffled_differs_from_the_default_in_the_partner_alone(make_job):
    plain, shuffled = (make_job(name).trainer.options for name in ("temporal", "temporal@shuffled"))
    differing = {name for name in plain.__dataclass_fields__ if getattr(plain, name) != getattr(shuffled, name)}
    assert differing == {"partner"}
