"""Losses from the head alone, against those from all logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.activations.language_model import LanguageModel
from harness.activations.sources import LMSource
from harness.activations.store import ActivationStore
from harness.artefacts.cache import Cache
from harness.config import LMConfig
from harness.errors import NonFiniteError
from harness.evaluation import readout as readout_module
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.readout import HeadReadout, LogitReadout

VOCAB, N_SEQ, SEQ_LEN = 700, 5, 9
HOOKPOINT = "blocks.0.hook_resid_post"


def make_lm(family: str, **options) -> LanguageModel:
    """A random LM of two layers with sharp predictions."""
    import transformers as t

    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    if family == "GPT2":
        sizes = {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    if family == "Gemma2":
        sizes |= {"head_dim": 8, "sliding_window": 4}
    torch.manual_seed(0)
    model = getattr(t, f"{family}ForCausalLM" if family != "GPT2" else "GPT2LMHeadModel")(
        getattr(t, f"{family}Config")(**sizes, tie_word_embeddings=False, **options)
    )
    model.lm_head.weight.data.normal_(0.0, 1.0)
    source = LMSource(name="memory", folder=Path(), weights_sha256="w", tokenizer_sha256="t")
    lm = LanguageModel(LMConfig(source="memory"), source)
    lm.__dict__["model"] = model.eval().requires_grad_(False)
    return lm


def make_context(lm, *, hookpoint: str = HOOKPOINT, **options) -> StoreEvalContext:
    """Held-out sequences of the LM; special tokens at the beginning and in the middle."""
    plain = lm.inner if isinstance(lm, Logits) else lm
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, VOCAB, (N_SEQ, SEQ_LEN), generator=generator)
    mask = torch.ones(N_SEQ, SEQ_LEN, dtype=torch.bool)
    mask[:, 0] = False
    mask[1, 4] = False
    activations = plain.capture(tokens, [hookpoint])[hookpoint]
    store = ActivationStore.from_tensors(activations, tokens=tokens, mask=mask, document=torch.tensor([0, 0, 1, 2, 2]))
    options = {"hookpoint": hookpoint, "data_id": "d", "seed": 0, "lm_sha256": "w", **options}
    return StoreEvalContext(store, language_model=lm, **options)


class Logits:
    """An LM of which only logits are seen."""

    def __init__(self, inner: LanguageModel) -> None:
        self.inner = inner
        self.vocab_size = VOCAB

    def logits(self, tokens):
        return self.inner.logits(tokens)

    def run_with_replacement(self, tokens, hookpoint, replace, *, activations=None):
        return self.inner.run_with_replacement(tokens, hookpoint, replace, activations=activations)


def disturbed(context):
    """Replacements that are off by about a third."""
    generator = torch.Generator().manual_seed(3)
    for batch in context.batches():
        noise = torch.randn(batch.activations.shape, generator=generator)
        yield batch.activations + 0.3 * noise * batch.activations.abs()


def losses(context):
    """Clean, ablated and disturbed losses."""
    from harness.interfaces.evaluator import NextTokenLosses

    given = NextTokenLosses.cat(context.next_token_losses(disturbed(context)))
    return context.clean_losses(), context.ablated_losses(), given


def used(context) -> type:
    return type(context._readout())


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("GPT2", {}),
        ("Llama", {}),
        ("GPTNeoX", {}),
        ("Gemma2", {"final_logit_softcapping": 5.0}),
        ("Phi", {}),  # its head has a bias
    ],
)
def test_losses_from_the_head_are_those_from_all_logits(family, options, monkeypatch):
    monkeypatch.setattr(readout_module, "_BLOCK_ELEMENTS", {"cpu": 300 * 30})  # three blocks of the vocabulary
    lm = make_lm(family, **options) if family != "Phi" else make_phi()
    where = {"hookpoint": HOOKPOINT if family != "Phi" else "model.layers.0", "batch_sequences": 4}
    fast, plain = make_context(lm, **where), make_context(Logits(lm), **where)
    assert (used(fast), used(plain)) == (HeadReadout, LogitReadout)
    for ours, wanted in zip(losses(fast), losses(plain), strict=True):
        assert torch.equal(ours.document, wanted.document)
        assert torch.allclose(ours.ce, wanted.ce, rtol=1e-6, atol=3e-6)
        assert torch.allclose(ours.kl, wanted.kl, rtol=1e-6, atol=3e-6)
        assert (ours.ce.mean() / wanted.ce.mean()).item() == pytest.approx(1.0, abs=1e-6)
    assert float(losses(fast)[2].kl.mean()) > 0.05


def make_phi() -> LanguageModel:
    from transformers import PhiConfig, PhiForCausalLM

    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    lm = make_lm("Llama")
    model = PhiForCausalLM(config)
    model.lm_head.weight.data.normal_()
    model.lm_head.bias.data.normal_()
    lm.__dict__["model"] = model.eval().requires_grad_(False)
    return lm


def test_the_losses_match_the_definition():
    lm = make_lm("Llama")
    context = make_context(lm)
    store = context._store
    keep = store.mask[:, :-1] & store.mask[:, 1:]

    def log_probs(activations):
        logits = lm.run_with_replacement(store.tokens, HOOKPOINT, lambda x: activations)
        return logits[:, :-1].double().log_softmax(-1)[keep]

    whole = store.sequences(0, N_SEQ)
    replaced = torch.cat(list(disturbed(context)))
    clean, given = log_probs(whole), log_probs(replaced)
    targets = store.tokens[:, 1:][keep]
    ours_clean, _, ours = losses(context)
    nll = -clean.gather(1, targets[:, None])[:, 0]
    assert torch.allclose(ours_clean.ce, nll, atol=3e-6)
    assert torch.allclose(ours.kl, (clean.exp() * (clean - given)).sum(1), atol=3e-6)
    assert torch.equal(ours_clean.kl, torch.zeros_like(nll))
    assert torch.equal(ours.document, store.document[:, None].expand(N_SEQ, SEQ_LEN - 1)[keep])


def test_replacing_activations_by_themselves_loses_nothing_at_all():
    context = make_context(make_lm("Llama"))
    found = list(context.next_token_losses(batch.activations for batch in context.batches()))
    assert all(torch.equal(part.kl, torch.zeros_like(part.kl)) for part in found)


def test_a_short_dtype_is_computed_as_the_model_does():
    lm = make_lm("Llama")
    lm.model.bfloat16()
    fast, plain = make_context(lm), make_context(Logits(lm))
    assert used(fast) is HeadReadout
    for ours, wanted in zip(losses(fast), losses(plain), strict=True):
        assert torch.allclose(ours.ce, wanted.ce, atol=1e-5)
        assert torch.allclose(ours.kl, wanted.kl, atol=1e-5)


def test_a_model_that_does_more_to_its_logits_is_asked_for_them():
    lm = make_lm("Granite", logits_scaling=8.0)
    assert used(make_context(lm, hookpoint="model.layers.0")) is LogitReadout


def test_a_head_without_a_weight_matrix_is_asked_for_logits():
    lm = make_lm("Llama")
    lm.model.lm_head = torch.nn.Sequential(lm.model.lm_head)
    assert used(make_context(lm)) is LogitReadout


@pytest.mark.parametrize("size", [1, 2, 5])
def test_losses_do_not_depend_on_the_batch_size(size):
    lm = make_lm("Llama")
    for ours, wanted in zip(losses(make_context(lm, batch_sequences=size)), losses(make_context(lm)), strict=True):
        assert torch.allclose(ours.ce, wanted.ce, atol=3e-6)
        assert torch.equal(ours.document, wanted.document)


def test_what_is_kept_of_the_clean_predictions_is_read_from_the_disk(tmp_path, monkeypatch):
    lm = make_lm("Llama")
    first = losses(make_context(lm, cache=Cache(tmp_path)))

    def made_again(self, batches):
        pytest.fail("the clean predictions are made again")
        yield

    monkeypatch.setattr(HeadReadout, "make_clean", made_again)
    again = losses(make_context(lm, cache=Cache(tmp_path)))
    for ours, wanted in zip(again, first, strict=True):
        assert torch.equal(ours.ce, wanted.ce)
        assert torch.equal(ours.kl, wanted.kl)


def test_a_batch_without_a_counted_prediction_has_no_losses():
    context = make_context(make_lm("Llama"), batch_sequences=1)
    context._store.mask[2] = False
    sizes = [len(part) for part in context.next_token_losses(disturbed(context))]
    assert sizes == [7, 5, 0, 7, 7]
    assert len(context.clean_losses()) == sum(sizes)


def test_logits_that_are_not_finite_are_refused():
    context = make_context(make_lm("Llama"))
    broken = (torch.full_like(batch.activations, float("nan")) for batch in context.batches())
    with pytest.raises(NonFiniteError, match="logits"):
        list(context.next_token_losses(broken))


def test_the_model_is_left_as_it_was():
    lm = make_lm("Llama")
    tokens = torch.arange(3, 9)[None]
    before = lm.logits(tokens)
    losses(make_context(lm))
    assert torch.equal(lm.logits(tokens), before)
    assert not lm.model.lm_head._forward_pre_hooks
