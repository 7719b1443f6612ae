"""Concepts as the first latents: the term by hand, where its gradient goes, and the base to the bit."""

from __future__ import annotations

import pytest
import torch
from sae_harness_hierarchical_unlearning.levels import PrefixLevels, levels_of

from harness import ConfigError, SparseCodes
from harness.training.kernels import to_dense

NAME = "hierarchical_prefixes"
BASES = ("topk", "batchtopk", "relu", "jumprelu")


@pytest.mark.parametrize("base", BASES)
def test_the_term_is_the_error_of_the_first_latents(start, loss_of, stream, base):
    job, batch = start(NAME, base=base), stream.batch(1)
    terms = loss_of(job, batch)
    codes = terms.codes if isinstance(terms.codes, torch.Tensor) else to_dense(terms.codes, 64)
    codes = torch.cat([codes[:, :16], torch.zeros(len(codes), 48)], dim=1)
    wanted = (job.sae.decode(codes) - batch.activations).square().sum(-1).mean()
    assert float(terms.values["concepts"].detach()) == pytest.approx(float(wanted.detach()), rel=1e-4)


@pytest.mark.parametrize("base", BASES)
def test_its_gradient_reaches_concepts_and_the_bias_alone(start, loss_of, stream, base):
    job = start(NAME, base=base)
    loss_of(job, stream.batch(1)).values["concepts"].backward()
    sae = job.sae
    assert bool(sae.W_dec.grad[:16].any())
    assert not bool(sae.W_dec.grad[16:].any())
    assert not bool(sae.W_enc.grad[:, 16:].any())


def test_weight_0_is_the_base_to_the_bit(make_job, train):
    off, topk = train([make_job(f"{NAME}@off"), make_job("topk")], 20)
    for name, value in topk.sae.state_dict().items():
        assert torch.equal(off.sae.state_dict()[name], value), name


def test_concepts_reconstruct_better_than_those_of_the_base(make_job, train, stream):
    ours, topk = train([make_job(NAME), make_job("topk")], 100)
    rows = stream.batch(500).activations

    def error(sae) -> float:
        codes = sae.encode_sparse(rows)
        assert isinstance(codes, SparseCodes)
        kept = to_dense(codes, 64) * (torch.arange(64) < 16)
        return float((sae.decode(kept) - rows).square().sum(-1).mean())

    with torch.no_grad():
        assert error(ours.sae) < 0.9 * error(topk.sae)


def test_levels_are_found_from_the_options_of_the_sae(make_job):
    levels = levels_of(make_job(NAME, concept_share=0.5).sae)
    assert isinstance(levels, PrefixLevels)
    assert levels.n_concepts == 32
    assert levels_of(make_job("topk").sae) is None
    first = levels_of(make_job("matryoshka").sae)
    assert first is not None
    assert first.n_concepts == 4


@pytest.mark.parametrize("options", [{"weight": -1.0}, {"concept_share": 1.0}])
def test_options_that_make_no_sense_are_refused(make_job, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_job(NAME, **options)
