"""The training loop finds planted dictionaries, repeats itself, resumes to the bit and stops on NaN."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

from harness.errors import NonFiniteError
from harness.interfaces.batch import ActivationBatch
from harness.interfaces.trainer import TrainState
from harness.training import fit as fit_module
from harness.training.checkpoint import sae_id
from harness.training.fit import fit

SETTINGS = {"batch_size": 256, "dead_after_tokens": 256 * 40}


def recovered(sae, directions) -> float:
    decoder = sae.decoder_directions()
    decoder = decoder / decoder.norm(dim=1, keepdim=True)
    return float((directions @ decoder.t()).amax(1).gt(0.95).float().mean())


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu"])
def test_a_planted_dictionary_is_found(kind, stream, make_job):
    (result,) = fit([make_job(kind, lr=1e-2)], stream, n_steps=300, **SETTINGS)
    assert recovered(result.sae, stream.directions) > 0.9
    assert result.steps == 300
    assert result.tokens == 300 * 256


# The planted tokens have L0 2.6: a JumpReLU penalty can make codes sparser than that, not denser.
@pytest.mark.parametrize(("kind", "target"), [("relu", 2), ("relu", 6), ("jumprelu", 1), ("jumprelu", 2)])
def test_the_controller_brings_l0_within_five_percent(kind, target, stream, make_job):
    # So small a world reaches its target from one side only: the target's weight must outdo the reconstruction.
    options = {"lr": 1e-2, **({"l0_weight": 60.0} if kind == "jumprelu" else {})}
    (result,) = fit([make_job(kind, target_l0=target, **options)], stream, n_steps=300, **SETTINGS)
    x = torch.cat([stream.batch(10_000 + i).activations for i in range(4)])
    l0 = float((result.sae.encode(x) > 0).sum(1).float().mean())
    assert result.l0_reached
    assert abs(l0 / target - 1) < 0.08


def test_a_cohort_member_equals_the_same_sae_trained_alone(stream, make_job):
    jobs = [("topk", 0), ("topk", 1), ("relu", 0), ("jumprelu", 0)]
    cohort = fit([make_job(k, s) for k, s in jobs], stream, n_steps=30, **SETTINGS)
    for (kind, seed), together in zip(jobs, cohort, strict=True):
        (alone,) = fit([make_job(kind, seed)], stream, n_steps=30, **SETTINGS)
        assert sae_id(alone.sae) == sae_id(together.sae)
    assert len({sae_id(r.sae) for r in cohort}) == 4


class KeptStream:
    """The first batches of a stream, made once."""

    def __init__(self, stream, n_batches):
        self.batches = [stream.batch(i) for i in range(n_batches)]

    def batch(self, index):
        return self.batches[index]


@pytest.mark.parametrize("n_threads", [2, 3])
def test_sae_steps_side_by_side_end_as_on_one_thread(n_threads, stream, make_job):
    jobs = [("topk", 0), ("relu", 0), ("jumprelu", 0), ("topk", 1), ("jumprelu", 1)]
    before = torch.get_num_threads()
    ids, order = [], []
    kept = KeptStream(stream, 40)  # made on one thread count: its own sums depend on it
    try:
        for threads in (1, n_threads):
            torch.set_num_threads(threads)
            made = [make_job(kind, seed) for kind, seed in jobs]
            results = fit(made, kept, n_steps=20, progress=lambda report: order.append(report.label), **SETTINGS)
            ids.append([sae_id(result.sae) for result in results])
        (alone,) = fit([make_job("jumprelu", 1)], kept, n_steps=20, **SETTINGS)
    finally:
        torch.set_num_threads(before)
    assert ids[0] == ids[1]
    assert sae_id(alone.sae) == ids[0][-1]
    assert order[: len(order) // 2] == order[len(order) // 2 :]


def test_decoder_rows_keep_norm_one(stream, make_job):
    (result,) = fit([make_job("topk")], stream, n_steps=20, **SETTINGS)
    torch.testing.assert_close(result.sae.W_dec.norm(dim=1), torch.ones(64), rtol=1e-5, atol=1e-5)


def test_dead_latents_are_counted_and_the_auxiliary_loss_revives_them(stream, make_job):
    def run(weight):
        job = make_job("topk", lr=3e-3, aux_weight=weight)
        original = job.trainer.initialise

        def kill(sae, *rest):
            original(sae, *rest)
            with torch.no_grad():
                sae.b_enc[:50] = -3.0

        job.trainer.initialise = kill
        (result,) = fit([job], stream, n_steps=150, batch_size=256, dead_after_tokens=256 * 10)
        return result

    without, with_aux = run(0.0), run(1 / 32)
    assert without.dead_latents >= 20
    assert with_aux.dead_latents <= without.dead_latents - 5
    assert with_aux.final_terms["sse"] < without.final_terms["sse"]


def test_the_auxiliary_gradient_reaches_dead_latents_and_only_them(stream, make_job):
    job = make_job("topk")
    job.sae.reset_parameters(torch.Generator().manual_seed(0))
    dead = torch.zeros(64, dtype=torch.bool)
    dead[5:15] = True
    state = TrainState(
        step=0, n_steps=1, tokens_seen=0, target_l0=3, coefficient=0.0, dead=dead, generator=torch.Generator()
    )
    terms = job.trainer.loss(job.sae, stream.batch(0), state)
    terms.values["aux"].backward()
    touched = job.sae.W_enc.grad.abs().sum(0) > 0
    assert touched[dead].all()
    assert not touched[~dead].any()


def test_nan_activations_abort_with_the_step_and_the_term(stream, make_job):
    class Poisoned:
        def batch(self, index):
            batch = stream.batch(index)
            if index == 45:
                batch.activations[0, 0] = float("nan")
            return batch

    with pytest.raises(NonFiniteError, match=r"topk seed 0: loss term sse.* is not finite at step 45 of 60"):
        fit([make_job("topk")], Poisoned(), n_steps=60, **SETTINGS)


def test_the_batch_is_not_edited(stream, make_job):
    class Watched:
        def __init__(self):
            self.seen: list[tuple[ActivationBatch, torch.Tensor]] = []

        def batch(self, index):
            batch = stream.batch(index)
            self.seen.append((batch, batch.activations.clone()))
            return batch

    watched = Watched()
    fit([make_job("topk"), make_job("relu")], watched, n_steps=3, **SETTINGS)
    assert all(torch.equal(b.activations, copy) for b, copy in watched.seen)


def test_the_log_holds_what_the_trainer_tells_of_itself(stream, make_job, monkeypatch):
    job = make_job("topk")
    monkeypatch.setattr(job.trainer, "diagnostics", lambda: {"strength": 0.5})
    (result,) = fit([job], stream, n_steps=4, **SETTINGS)
    assert all(row["trainer/strength"] == 0.5 for row in result.log)


def test_the_log_holds_terms_l0_and_coefficient(stream, make_job):
    (result,) = fit([make_job("relu")], stream, n_steps=50, **SETTINGS)
    assert result.log[0]["step"] == 0
    assert result.log[-1]["step"] == 49
    assert {"term/sse", "term/l1", "l0", "dead", "coefficient", "lr"} <= set(result.log[0])
    assert result.final_loss == pytest.approx(sum(result.final_terms.values()))


@pytest.mark.parametrize(("bytes_a_second", "saves"), [(2.0**40, True), (1e-3, False)])
def test_states_that_take_long_to_save_are_saved_seldom(stream, make_job, monkeypatch, tmp_path, bytes_a_second, saves):
    saved = []
    monkeypatch.setattr(fit_module, "_SAVE_BYTES_A_SECOND", bytes_a_second)
    monkeypatch.setattr(fit_module, "save_state", lambda folder, step, tree: saved.append(step))
    fit([make_job("topk")], stream, n_steps=6, **SETTINGS, resume_folder=tmp_path, save_every_s=1e-9)
    assert bool(saved) == saves


KILLED = """
    import sys, os, signal
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import conftest as c
    from harness.training.fit import fit
    from harness.training.checkpoint import save_sae
    make = c.make_job.__wrapped__() if hasattr(c.make_job, "__wrapped__") else c.make_job.__pytest_wrapped__.obj()
    kill_at = int(sys.argv[2])
    def progress(report):
        if report.step == kill_at and report.label.startswith("jumprelu"):
            os.kill(os.getpid(), signal.SIGKILL)
    results = fit([make("topk"), make("relu"), make("jumprelu")], c.PlantedStream(), n_steps=40, batch_size=256,
                  dead_after_tokens=256 * 5, resume_folder=Path(sys.argv[1]), save_every_s=0.0, progress=progress)
    print(" ".join(save_sae(r.sae, Path(sys.argv[1]) / ".." / f"out{{i}}") for i, r in enumerate(results)))
    print([r.final_loss for r in results], [len(r.log) for r in results])
"""


def test_a_run_killed_with_sigkill_resumes_bit_identical(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(KILLED.format(tests=os.path.dirname(__file__))))

    def run(folder, kill_at):
        return subprocess.run(
            [sys.executable, str(script), str(folder), str(kill_at)], capture_output=True, text=True, timeout=120
        )

    undisturbed = run(tmp_path / "a", -1)
    assert undisturbed.returncode == 0, undisturbed.stderr
    first = run(tmp_path / "b", 13)
    assert first.returncode == -signal.SIGKILL
    second = run(tmp_path / "b", 31)
    assert second.returncode == -signal.SIGKILL
    resumed = run(tmp_path / "b", -1)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == undisturbed.stdout


class OnDevice:
    def __init__(self, stream, device):
        self.stream, self.device = stream, device

    def batch(self, index):
        return self.stream.batch(index).to(self.device)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_seed_trains_to_the_same_loss_on_every_device(device, stream, make_job):
    for kind in ("topk", "relu", "jumprelu"):
        (reference,) = fit([make_job(kind)], stream, n_steps=5, **SETTINGS)
        (result,) = fit([make_job(kind)], OnDevice(stream, device), n_steps=5, device=device, **SETTINGS)
        assert result.final_loss == pytest.approx(reference.final_loss, rel=1e-3)


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu"])
def test_bfloat16_products_with_float32_weights_train_nearly_the_same(kind, stream, make_job):
    """The CPU twin of training in bfloat16 on a GPU."""
    losses = {}
    for precision in ("float32", "bfloat16"):
        job = make_job(kind)
        [result] = fit([job], stream, n_steps=60, batch_size=256, dead_after_tokens=5000, precision=precision)
        assert all(p.dtype == torch.float32 for p in result.sae.parameters())
        losses[precision] = result.final_terms["sse"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bfloat16"] != losses["float32"]
