from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.artefacts.cache import Cache
from harness.builtin.evaluators.behaviour import BehaviourEvaluator
from harness.builtin.evaluators.core import CoreEvaluator
from harness.builtin.evaluators.specs import BEHAVIOUR, CORE, EVALUATORS
from harness.errors import ConfigError
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.interfaces.sae import SAE

PLAN = [PlannedEvaluator(BEHAVIOUR, BehaviourEvaluator, {})]
METRICS = ("ce_loss_recovered", "kl_div_recovered")


def outcome_of(sae: SAE, context: StoreEvalContext):
    return evaluate_sae(sae, PLAN, context).outcomes["behaviour"]


def measure(sae: SAE, context: StoreEvalContext) -> dict[str, float]:
    outcome = outcome_of(sae, context)
    assert outcome.status == "done", outcome.reason
    return {name: measured.value for name, measured in outcome.metrics.items()}


def test_identity_is_perfect(copying):
    values = measure(copying.Scaled(1.0), copying.make_context())
    assert [values[name] for name in METRICS] == pytest.approx([1.0, 1.0], abs=1e-5)


def test_zero_recovers_nothing(copying):
    values = measure(copying.Scaled(0.0), copying.make_context())
    assert [values[name] for name in METRICS] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_more_noise_recovers_less(copying):
    context = copying.make_context()
    recovered = [measure(copying.Scaled(1.0, noise), context)["ce_loss_recovered"] for noise in (0.0, 0.2, 0.5)]
    assert recovered[0] > recovered[1] > recovered[2]


def test_losses_match_a_direct_computation(copying):
    lm = copying.CopyingLM()
    store, sae = copying.make_store(lm), copying.Scaled(0.8, 0.1)
    values = measure(sae, copying.make_context(lm, store))
    keep = store.mask[:, :-1] & store.mask[:, 1:]

    def losses(activations: Tensor) -> tuple[float, Tensor]:
        log_probs = lm._head(torch.where(store.mask[..., None], activations, store.activations))[:, :-1].log_softmax(-1)
        return -log_probs.gather(2, store.tokens[:, 1:, None])[..., 0][keep].sum().item(), log_probs[keep]

    (clean, p), (zero, p_zero), (ours, p_ours) = map(
        losses, (store.activations, torch.zeros_like(store.activations), sae(store.activations))
    )
    kl = lambda q: (p.exp() * (p - q)).sum().item()  # noqa: E731
    assert values["ce_loss_recovered"] == pytest.approx((zero - ours) / (zero - clean), rel=1e-5)
    assert values["kl_div_recovered"] == pytest.approx(1 - kl(p_ours) / kl(p_zero), rel=1e-5)


def test_special_positions_are_replaced_by_neither_intervention(copying):
    lm = copying.CopyingLM()
    store = copying.make_store(lm)
    measure(copying.Scaled(0.5), copying.make_context(lm, store, batch_sequences=copying.N_SEQ))
    assert len(lm.seen) == 3  # clean, ablated, SAE
    for replaced in lm.seen:
        assert torch.equal(replaced[~store.mask], store.activations[~store.mask])
    assert torch.equal(lm.seen[1][store.mask], torch.zeros_like(store.activations[store.mask]))
    assert torch.equal(lm.seen[2][store.mask], 0.5 * store.activations[store.mask])


@pytest.mark.parametrize("size", [1, 3, 10])
def test_values_do_not_depend_on_the_batch_size(copying, size):
    whole = measure(copying.Scaled(0.8, 0.1), copying.make_context())
    parts = measure(copying.Scaled(0.8, 0.1), copying.make_context(batch_sequences=size))
    assert parts == pytest.approx(whole, rel=1e-5, abs=1e-9)


def test_values_do_not_depend_on_the_order_of_sequences(copying):
    lm = copying.CopyingLM()
    store = copying.make_store(lm)
    order = torch.randperm(copying.N_SEQ, generator=torch.Generator().manual_seed(0))
    mixed = copying.MemoryStore(store.activations[order], store.tokens[order], store.mask[order], store.document[order])
    straight = measure(copying.Scaled(0.8, 0.1), copying.make_context(lm, store))
    assert measure(copying.Scaled(0.8, 0.1), copying.make_context(lm, mixed)) == pytest.approx(straight, rel=1e-5)


def test_what_does_not_depend_on_the_sae_is_computed_once(copying, tmp_path):
    lm = copying.CopyingLM()
    context = copying.make_context(lm, cache=Cache(tmp_path), batch_sequences=copying.N_SEQ)
    measure(copying.Scaled(0.5), context)
    assert len(lm.seen) == 3
    measure(copying.Scaled(0.7), context)
    assert len(lm.seen) == 4  # the SAE alone
    measure(copying.Scaled(0.7), copying.make_context(lm, cache=Cache(tmp_path), batch_sequences=copying.N_SEQ))
    assert len(lm.seen) == 6  # losses are on disk; this LM shows logits alone, so clean ones are made again


def test_values_do_not_depend_on_what_memory_can_hold(copying):
    sae = copying.Scaled(0.8, 0.1)
    assert measure(sae, copying.make_context(memo_bytes=0, code_bytes=0)) == measure(sae, copying.make_context())


def test_codes_are_made_once_for_this_evaluator_and_core(copying):
    class Counting(copying.Scaled):
        n_encoded = 0

        def encode(self, x):
            self.n_encoded += len(x)
            return super().encode(x)

    sae, context = Counting(0.8), copying.make_context(batch_sequences=3)
    result = evaluate_sae(sae, [PlannedEvaluator(CORE, CoreEvaluator, {}), *PLAN], context)
    assert {name: outcome.status for name, outcome in result.outcomes.items()} == {"core": "done", "behaviour": "done"}
    assert sae.n_encoded == int(context._store.mask.sum())


def test_standard_errors_are_over_documents(copying):
    metrics = outcome_of(copying.Scaled(0.8, 0.1), copying.make_context()).metrics
    for name in METRICS:
        assert metrics[name].n == 5, name
        assert (metrics[name].stderr or 0.0) > 0.0, name


def test_an_lm_that_ablation_does_not_hurt_is_a_failure_with_the_numbers(copying):
    outcome = outcome_of(copying.Scaled(), copying.make_context(copying.CopyingLM(strength=0.0)))
    assert outcome.status == "failed"
    assert "zero ablation gives a CE of 2.3979" in outcome.reason


def test_text_without_a_counted_prediction_is_a_failure(copying):
    store = copying.make_store(copying.CopyingLM())
    store.mask[:, 2:] = False
    assert (
        "No next-token prediction is counted" in outcome_of(copying.Scaled(), copying.make_context(store=store)).reason
    )


def test_without_an_lm_it_is_skipped_and_core_is_not(copying):
    store = copying.make_store(copying.CopyingLM())
    context = StoreEvalContext(store, hookpoint="here", data_id="d", seed=0)
    plan = [PlannedEvaluator(CORE, CoreEvaluator, {}), *PLAN]
    outcomes = evaluate_sae(copying.Scaled(), plan, context).outcomes
    assert (outcomes["core"].status, outcomes["behaviour"].status) == ("done", "skipped")
    assert outcomes["behaviour"].reason == "needs a language model, and this data has none"


def test_options_are_refused():
    with pytest.raises(ConfigError, match="takes no options, got ablation"):
        BehaviourEvaluator({"ablation": "mean"})


def test_every_metric_says_how_to_read_it():
    assert BEHAVIOUR in EVALUATORS
    assert BEHAVIOUR.needs == {"language_model"}
    assert tuple(metric.name for metric in BEHAVIOUR.metrics) == METRICS
    assert all(metric.version == 1 and metric.better == "higher" for metric in BEHAVIOUR.metrics)


def test_on_a_real_decoder_from_its_hookpoint(copying):
    import transformers

    from harness.activations.language_model import LanguageModel
    from harness.activations.sources import LMSource
    from harness.activations.store import ActivationStore
    from harness.config import LMConfig

    torch.manual_seed(0)
    shape = transformers.LlamaConfig(
        vocab_size=37,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    source = LMSource(name="memory", folder=Path(), weights_sha256="w", tokenizer_sha256="t")
    lm = LanguageModel(LMConfig(source="memory"), source)
    lm.__dict__["model"] = transformers.LlamaForCausalLM(shape).eval().requires_grad_(False)
    with torch.no_grad():
        lm.model.lm_head.weight.mul_(20)
        tokens = torch.randint(1, 37, (6, 12))
        for t in range(1, 12):  # the LM's own most likely continuation: it predicts this text well
            tokens[:, t] = lm.logits(tokens[:, :t])[:, -1].argmax(-1)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 0] = False
    hookpoint = "blocks.1.hook_resid_post"
    store = ActivationStore.from_tensors(lm.capture(tokens, [hookpoint])[hookpoint], tokens=tokens, mask=mask)
    context = StoreEvalContext(store, hookpoint=hookpoint, data_id="d", seed=0, language_model=lm, lm_sha256="w")
    identity = measure(copying.Scaled(1.0, d_in=16), context)
    assert [identity[name] for name in METRICS] == pytest.approx([1.0, 1.0], abs=1e-5)
    assert measure(copying.Scaled(0.0, d_in=16), context)["ce_loss_recovered"] == pytest.approx(0.0, abs=1e-6)

    sae = copying.Scaled(1.0, 0.2, d_in=16)
    values = measure(sae, context)

    def loss(replace) -> float:
        """Cross-entropy over positions 1 to 10, the whole LM run from the tokens."""
        hooked = lambda x: torch.where(mask[..., None], replace(x), x)  # noqa: E731
        logits = lm.run_with_replacement(tokens, hookpoint, hooked)[:, 1:-1]
        return torch.nn.functional.cross_entropy(logits.reshape(-1, 37), tokens[:, 2:].reshape(-1)).item()

    clean, zero, ours = loss(lambda x: x), loss(torch.zeros_like), loss(sae)
    assert values["ce_loss_recovered"] == pytest.approx((zero - ours) / (zero - clean), rel=1e-4)
    assert 0.0 < values["kl_div_recovered"] < 1.0
