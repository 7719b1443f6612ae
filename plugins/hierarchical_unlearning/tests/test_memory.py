"""Training at d_sae 65,536 takes the memory that `--max-memory` is told it takes."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

MEASURE = """
    import torch
    from harness import ActivationBatch
    from harness.methods import build, resolve_method
    from harness.plugins import load_catalogue
    from harness.training.cohort import footprint
    from harness.training.fit import FitJob, fit
    torch.set_num_threads(1)
    name, options, d_in, k, n = {name!r}, {options!r}, {d_in}, 32, {n}
    class Stream:
        def batch(self, index):
            x = torch.randn(n, d_in, generator=torch.Generator().manual_seed(index))
            return ActivationBatch(activations=x, document=torch.zeros(n).long(), position=torch.arange(n))
    catalogue = load_catalogue({{"SAE_HARNESS_PLUGINS": "builtin,sae-harness-hierarchical-unlearning"}})
    def job(d_sae):
        method = resolve_method(catalogue, name, overrides=options if d_sae > 4096 else {{}})
        trainer, sae = build(method, d_in=d_in, d_sae=d_sae, target_l0=k)
        return FitJob(label=name, sae=sae, trainer=trainer, seed=0, target_l0=k, sparsity=method.sparsity)
    def train(d_sae):
        # Latents die after two steps, so that the terms that revive them are there.
        made = job(d_sae)
        found = footprint(name, made.sae, n)
        fit([made], Stream(), n_steps=5, batch_size=n, dead_after_tokens=2 * n)
        return found
    train(1024)  # what the first call of an operation sets up is no part of the estimate
    def resident(field):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark starts anew
    found = train(65536)
    print(resident("VmHWM") - before, found.held + found.step)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("name", "options", "n"),
    [
        ("topk", {}, 256),
        ("hierarchical_unlearning", {"n_concepts": 1024}, 256),
        ("hierarchical_unlearning", {"n_concepts": 1024}, 1024),
        ("hierarchical_unlearning", {"concept_rank": 64}, 256),
        ("hierarchical_unlearning", {"concept_rank": 256}, 256),
        ("hierarchical_prefixes", {}, 256),
        ("hierarchical_mixture", {}, 256),
        ("hierarchical_linked", {}, 256),
    ],
)
def test_memory_stays_within_the_estimate(name, options, n):
    script = textwrap.dedent(MEASURE.format(name=name, options=options, d_in=64, n=n))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    used, estimate = map(int, done.stdout.split())
    print(f"{name} {options}, batches of {n}: used {used / 1e6:.0f} MB, estimate {estimate / 1e6:.0f} MB")
    assert used <= estimate
    assert used >= estimate / 8  # an estimate that promises nothing is none
