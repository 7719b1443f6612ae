"""Two SAEs that know nothing of each other: gradients apart, topk to the bit, and links that are found afterwards."""

from __future__ import annotations

import pytest
import torch
from sae_harness_hierarchical_unlearning.levels import LinkedLevels, levels_of, parents_of
from sae_harness_hierarchical_unlearning.linked import linked
from sae_harness_hierarchical_unlearning.linked_sae import LinkedTopKSAE
from sae_harness_hierarchical_unlearning.links import Links

from harness import ConfigError
from harness.evaluation.metrics import dense
from harness.evaluation.unlearning import Clamp
from harness.methods import build, resolve_method
from harness.training.fit import FitJob
from harness.training.kernels import to_dense

NAME = "hierarchical_linked"
BASE = {"W_enc", "b_enc", "W_dec", "b_dec"}
CONCEPTS = {f"{name}_concepts" for name in BASE}


def gradients(job, value):
    job.sae.zero_grad(set_to_none=True)
    value.backward(retain_graph=True)
    return {key for key, p in job.sae.named_parameters() if p.grad is not None and p.grad.any()}


def test_neither_level_moves_the_other(start, loss_of, stream):
    job = start(NAME)
    terms = loss_of(job, stream.batch(1))
    assert terms.weights == {"sse": 1.0, "aux": 1 / 32, "concept_sse": 1.0}
    assert gradients(job, terms.values["sse"]) == BASE
    assert gradients(job, terms.values["concept_sse"]) == CONCEPTS


def test_with_weight_0_it_is_topk_to_the_bit(make_job, train):
    ours, topk = train([make_job(f"{NAME}@off"), make_job("topk")], 30)
    for name, value in topk.sae.state_dict().items():
        assert torch.equal(ours.sae.state_dict()[name], value), name


def test_without_clipping_the_base_is_topk_to_the_bit_beside_its_concepts(make_job, train):
    ours, topk = train([make_job(NAME, grad_clip=0.0), make_job("topk", grad_clip=0.0)], 30)
    for name, value in topk.sae.state_dict().items():
        assert torch.equal(ours.sae.state_dict()[name], value), name


def test_concepts_read_what_codes_reconstruct(start, stream):
    sae = start(NAME, n_concepts=10, k_concepts=3).sae
    codes = sae.encode_sparse(stream.batch(1).activations[:20])
    with torch.no_grad():
        x_hat = sae.decode(to_dense(codes, 64))
        pre = ((x_hat - sae.b_dec_concepts) @ sae.W_enc_concepts + sae.b_enc_concepts).relu()
        kept = pre.topk(3, dim=1)
        wanted = torch.zeros(20, 10).scatter(1, kept.indices, kept.values)
        assert torch.allclose(to_dense(sae.concepts(codes), 10), wanted, atol=1e-5)


def test_concepts_are_the_same_after_a_scale_is_folded_in(start, stream):
    sae, rows = start(NAME).sae, stream.batch(1).activations[:20]
    with torch.no_grad():
        before, sizes = sae.concepts(sae.encode_sparse(2.0 * rows)), sae.code_size / sae.code_size.mean()
        sae.fold_input_scale(2.0)
        after = sae.concepts(sae.encode_sparse(rows))
    assert torch.allclose(to_dense(after, 16), to_dense(before, 16) / 2.0, atol=1e-4)
    assert torch.allclose(sae.code_size / sae.code_size.mean(), sizes)


def test_a_child_moves_by_as_many_of_its_sizes_as_its_parent(start, codes_of):
    """Latent 0 writes along the first dimension, which concept 0 reads; latents 0 and 1 are its children."""
    sae = start(NAME, n_concepts=2, k_concepts=1).sae
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.zero_()
        sae.W_dec[0, 0] = 1.0
        sae.W_enc_concepts[0, 0] = 1.0
        sae.code_size.fill_(3.0)
        sae.concept_size.fill_(2.0)
    levels = levels_of(sae.eval())
    assert isinstance(levels, LinkedLevels)
    rows = torch.zeros(3, 64)
    rows[0, :3] = torch.tensor([4.0, 20.0, 6.0])
    rows[1, 1] = 5.0
    rows[2, 0] = 4.0
    codes = codes_of(rows.tolist())
    with torch.no_grad():
        assert dense(levels.concepts(codes), 2).tolist() == [[4.0, 0.0], [0.0, 0.0], [4.0, 0.0]]
        parents = torch.full((64,), -1)
        parents[:2] = 0
        found = levels.clamp(Clamp(torch.tensor([0]), torch.tensor([-2.0])), parents).edit(codes, torch.arange(3))
    # The concept goes from 4 to -2, by 3 of its sizes of 2: children by 3 of their sizes of 3.
    wanted = rows.clone()
    wanted[0, 0], wanted[0, 1], wanted[2, 0] = -5.0, 11.0, -5.0
    assert dense(found.codes, 64).tolist() == wanted.tolist()
    assert found.changed.tolist() == [True, False, True]


@pytest.fixture
def trained(catalogue, train):
    """Two topk SAEs, of 64 latents and of 16."""

    def job(d_sae: int, k: int) -> FitJob:
        method = resolve_method(catalogue, "topk", overrides={"lr": 1e-2})
        trainer, sae = build(method, d_in=32, d_sae=d_sae, target_l0=k)
        return FitJob(label=f"{d_sae}", sae=sae, trainer=trainer, seed=0, target_l0=k, sparsity="k")

    return [result.sae.eval() for result in (train([job(64, 4)], 150)[0], train([job(16, 1)], 150)[0])]


def test_saes_that_are_trained_are_linked_as_they_are(trained, stream, tmp_path):
    from harness.training.checkpoint import load_sae, save_sae

    base, concepts = trained
    rows = stream.batch(3).activations
    save_sae(linked(base, concepts, rows), tmp_path)
    both = load_sae(tmp_path, lambda name: {"linked_topk": LinkedTopKSAE}[name])
    assert isinstance(both, LinkedTopKSAE)
    assert torch.equal(both.encode(rows), base.encode(rows))
    assert torch.equal(both(rows), base(rows))
    assert torch.equal(to_dense(both.concepts_of(rows), 16), concepts.encode(rows))
    own = base.encode(rows)
    fires = (own > 0).any(0)
    usual = own.sum(0) / (own > 0).sum(0).clamp_min(1)
    assert torch.allclose(both.code_size[fires], usual[fires], rtol=1e-5)


def test_links_found_afterwards_go_with_the_world(trained, context, stream):
    """Parents are active with their children far more often than elsewhere, which random concepts are not."""
    base, concepts = trained
    both = linked(base, concepts, stream.batch(3).activations)
    levels = levels_of(both)
    assert levels is not None
    [part] = list(context.encoded(both))
    with torch.no_grad():
        links = Links.of(part.codes, levels.concepts(part.codes), 64, 16)
    parents = parents_of(levels, links)
    children = (parents >= 0).nonzero().squeeze(1)
    assert len(children) > 10
    given = links.with_parents(links.given_child(), parents)[children]
    usual = (links.concept / links.n_tokens)[parents[children]]
    assert float(given.mean()) > 3 * float(usual.mean())


def test_what_cannot_be_linked_is_refused(trained, make_job, stream):
    base, concepts = trained
    rows = stream.batch(3).activations
    with pytest.raises(ConfigError, match="no more concepts than latents"):
        linked(concepts, base, rows)
    with pytest.raises(ConfigError, match="Only topk SAEs"):
        linked(base, make_job("relu").sae, rows)


@pytest.mark.parametrize("options", [{"concepts_weight": -1.0}, {"concept_dead_fraction": 0.0}, {"n_concepts": 65}])
def test_options_that_make_no_sense_are_refused(make_job, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        make_job(NAME, **options)
