from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.artefacts.cache import Cache
from harness.builtin.evaluators.core import CoreEvaluator
from harness.builtin.evaluators.specs import CORE, EVALUATORS
from harness.errors import ConfigError
from harness.evaluation.context import StoreEvalContext
from harness.evaluation.evaluate import PlannedEvaluator, evaluate_sae
from harness.interfaces.sae import SAE, SAEConfig

VOCAB, D_IN, N_SEQ, SEQ_LEN = 11, 11, 10, 9


class CopyingLM:
    """Predicts token + 1 from the activation at a position and, weakly, from those before it."""

    vocab_size = VOCAB

    def __init__(self, strength: float = 4.0) -> None:
        generator = torch.Generator().manual_seed(5)
        self.embedding = torch.linalg.qr(torch.randn(VOCAB, D_IN, generator=generator))[0] + 0.5
        self.head = strength * torch.linalg.pinv(self.embedding).roll(1, 1)
        self.seen: list[Tensor] = []

    def activations(self, tokens: Tensor) -> Tensor:
        return self.embedding[tokens]

    def logits(self, tokens: Tensor) -> Tensor:
        return self._head(self.activations(tokens))

    def run_with_replacement(self, tokens, hookpoint, replace, *, activations=None) -> Tensor:
        assert hookpoint == "here"
        given = self.activations(tokens) if activations is None else activations
        replaced = replace(given)
        self.seen.append(replaced)
        return self._head(replaced)

    def _head(self, x: Tensor) -> Tensor:
        before = x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
        return (x + 0.2 * before) @ self.head


@dataclass
class MemoryStore:
    activations: Tensor
    tokens: Tensor
    mask: Tensor
    document: Tensor
    d_in: int = D_IN

    def sequences(self, start: int, stop: int) -> Tensor:
        return self.activations[start:stop]


class Scaled(SAE):
    """Codes are x; the reconstruction is scale·x + noise·(a fixed rotation of x)."""

    def __init__(self, scale: float = 1.0, noise: float = 0.0, d_in: int = D_IN) -> None:
        super().__init__(SAEConfig(architecture="scaled", d_in=d_in, d_sae=d_in))
        self.scale, self.noise = scale, noise

    def reset_parameters(self, generator) -> None: ...

    def encode(self, x):
        return x

    def decode(self, codes):
        return self.scale * codes + self.noise * codes.roll(1, -1)

    def fold_input_scale(self, scale) -> None: ...

    def decoder_directions(self):
        return torch.eye(self.config.d_in)


def make_store(lm: CopyingLM) -> MemoryStore:
    """Text in which a token is followed by its successor four times in five; token 0 opens each sequence, masked."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, VOCAB, (N_SEQ, SEQ_LEN), generator=generator)
    for t in range(2, SEQ_LEN):
        follows = torch.rand(N_SEQ, generator=generator) < 0.8
        tokens[:, t] = torch.where(follows, (tokens[:, t - 1] + 1) % VOCAB, tokens[:, t])
    tokens[:, 0] = 0
    mask = tokens != 0
    return MemoryStore(lm.activations(tokens), tokens, mask, torch.tensor([3, 3, 8, 8, 8, 5, 1, 1, 0, 0]))


def make_context(lm: CopyingLM | None = None, store: MemoryStore | None = None, **options) -> StoreEvalContext:
    lm = lm or CopyingLM()
    options = {"hookpoint": "here", "data_id": "d", "lm_sha256": "l", "seed": 0, **options}
    return StoreEvalContext(store or make_store(lm), language_model=lm, **options)


def measure(sae: SAE, context: StoreEvalContext) -> dict[str, float]:
    outcome = evaluate_sae(sae, [PlannedEvaluator(CORE, CoreEvaluator, {})], context).outcomes["core"]
    assert outcome.status == "done", outcome.reason
    return {name: measured.value for name, measured in outcome.metrics.items()}


def test_identity_is_perfect():
    values = measure(Scaled(1.0), make_context())
    assert values["fvu"] <= 1e-12
    assert values["explained_variance"] == pytest.approx(1.0, abs=1e-12)
    assert values["mse"] <= 1e-12
    assert values["cosine"] == pytest.approx(1.0, abs=1e-12)
    assert values["l2_ratio"] == pytest.approx(1.0, abs=1e-12)
    assert values["relative_reconstruction_bias"] == pytest.approx(1.0, abs=1e-12)
    assert values["ce_loss_recovered"] == pytest.approx(1.0, abs=1e-5)
    assert values["kl_div_recovered"] == pytest.approx(1.0, abs=1e-5)
    assert (values["l0"], values["dead_latent_fraction"], values["latent_density"]) == (D_IN, 0.0, 1.0)


def test_zero_recovers_nothing():
    values = measure(Scaled(0.0), make_context())
    assert values["ce_loss_recovered"] == pytest.approx(0.0, abs=1e-9)
    assert values["kl_div_recovered"] == pytest.approx(0.0, abs=1e-9)
    assert values["fvu"] > 1.0  # the activations have a mean, which zero does not predict
    assert (values["cosine"], values["l2_ratio"], values["relative_reconstruction_bias"]) == (0.0, 0.0, 0.0)


def test_shrinkage_shows_in_ratio_and_bias_and_not_in_cosine():
    values = measure(Scaled(0.5), make_context())
    assert values["l2_ratio"] == pytest.approx(0.5, abs=1e-6)
    assert values["relative_reconstruction_bias"] == pytest.approx(0.5, abs=1e-6)
    assert values["cosine"] == pytest.approx(1.0, abs=1e-6)


def test_more_noise_recovers_less():
    context = make_context()
    recovered = [measure(Scaled(1.0, noise), context)["ce_loss_recovered"] for noise in (0.0, 0.2, 0.5)]
    assert recovered[0] > recovered[1] > recovered[2]


def test_losses_match_a_direct_computation():
    lm = CopyingLM()
    store, sae = make_store(lm), Scaled(0.8, 0.1)
    values = measure(sae, make_context(lm, store))
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


def test_special_positions_are_replaced_by_neither_intervention():
    lm = CopyingLM()
    store = make_store(lm)
    measure(Scaled(0.5), make_context(lm, store, batch_sequences=N_SEQ))
    assert len(lm.seen) == 3  # clean, ablated, SAE
    for replaced in lm.seen:
        assert torch.equal(replaced[~store.mask], store.activations[~store.mask])
    assert torch.equal(lm.seen[1][store.mask], torch.zeros_like(store.activations[store.mask]))
    assert torch.equal(lm.seen[2][store.mask], 0.5 * store.activations[store.mask])


@pytest.mark.parametrize("size", [1, 3, 10])
def test_values_do_not_depend_on_the_batch_size(size):
    whole = measure(Scaled(0.8, 0.1), make_context())
    parts = measure(Scaled(0.8, 0.1), make_context(batch_sequences=size))
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name


def test_values_do_not_depend_on_the_order_of_sequences():
    lm = CopyingLM()
    store = make_store(lm)
    order = torch.randperm(N_SEQ, generator=torch.Generator().manual_seed(0))
    mixed = MemoryStore(store.activations[order], store.tokens[order], store.mask[order], store.document[order])
    straight = measure(Scaled(0.8, 0.1), make_context(lm, store))
    for name, value in measure(Scaled(0.8, 0.1), make_context(lm, mixed)).items():
        assert value == pytest.approx(straight[name], rel=1e-5, abs=1e-9), name


def test_what_does_not_depend_on_the_sae_is_computed_once(tmp_path):
    lm = CopyingLM()
    context = make_context(lm, cache=Cache(tmp_path), batch_sequences=N_SEQ)
    measure(Scaled(0.5), context)
    assert len(lm.seen) == 3
    measure(Scaled(0.7), context)
    assert len(lm.seen) == 4  # the SAE alone
    measure(Scaled(0.7), make_context(lm, cache=Cache(tmp_path), batch_sequences=N_SEQ))
    assert len(lm.seen) == 6  # ablation is on disk; clean and SAE are run


def test_values_do_not_depend_on_what_memory_can_hold():
    assert measure(Scaled(0.8, 0.1), make_context(memo_bytes=0)) == measure(Scaled(0.8, 0.1), make_context())


def test_standard_errors_are_over_documents():
    result = evaluate_sae(Scaled(0.8, 0.1), [PlannedEvaluator(CORE, CoreEvaluator, {})], make_context())
    for name in ("l0", "fvu", "explained_variance", "mse", "cosine", "ce_loss_recovered", "kl_div_recovered"):
        assert result.metrics[name].n == 5, name
    for name in ("fvu", "ce_loss_recovered", "kl_div_recovered"):
        assert (result.metrics[name].stderr or 0.0) > 0.0, name
    assert result.metrics["explained_variance"].stderr == result.metrics["fvu"].stderr
    assert result.metrics["dead_latent_fraction"].n == D_IN


def test_an_lm_that_ablation_does_not_hurt_is_a_failure_with_the_numbers():
    context = make_context(CopyingLM(strength=0.0))
    outcome = evaluate_sae(Scaled(), [PlannedEvaluator(CORE, CoreEvaluator, {})], context).outcomes["core"]
    assert outcome.status == "failed"
    assert "zero ablation gives a CE of 2.3979" in outcome.reason


def test_a_reconstruction_of_nan_is_a_failure():
    context = make_context()
    outcome = evaluate_sae(Scaled(float("nan")), [PlannedEvaluator(CORE, CoreEvaluator, {})], context).outcomes["core"]
    assert outcome.reason == "NonFiniteError: NaN or infinite values in the reconstruction."


def test_without_an_lm_it_is_skipped():
    context = StoreEvalContext(make_store(CopyingLM()), hookpoint="here", data_id="d", seed=0)
    outcome = evaluate_sae(Scaled(), [PlannedEvaluator(CORE, CoreEvaluator, {})], context).outcomes["core"]
    assert outcome.status == "skipped"


def test_options_are_refused():
    with pytest.raises(ConfigError, match="takes no options, got ablation"):
        CoreEvaluator({"ablation": "mean"})


def test_every_metric_says_how_to_read_it():
    assert CORE in EVALUATORS
    specs = {metric.name: metric for metric in CORE.metrics}
    assert {name for name, metric in specs.items() if not metric.compared} == {"l0", "explained_variance", "mse"}
    assert {name for name, metric in specs.items() if metric.better == "none"} == {
        "l0",
        "l2_ratio",
        "relative_reconstruction_bias",
        "latent_density",
    }
    assert all(metric.version == 1 and metric.formula for metric in CORE.metrics)


def test_specs_load_no_torch():
    code = "import sys; import harness.builtin.evaluators.specs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_on_a_real_decoder_from_its_hookpoint():
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
    identity = measure(Scaled(1.0, d_in=16), context)
    assert identity["ce_loss_recovered"] == pytest.approx(1.0, abs=1e-5)
    assert identity["kl_div_recovered"] == pytest.approx(1.0, abs=1e-5)
    assert measure(Scaled(0.0, d_in=16), context)["ce_loss_recovered"] == pytest.approx(0.0, abs=1e-6)

    sae = Scaled(1.0, 0.2, d_in=16)
    values = measure(sae, context)

    def loss(replace) -> float:
        """Cross-entropy over positions 1 to 10, the whole LM run from the tokens."""
        hooked = lambda x: torch.where(mask[..., None], replace(x), x)  # noqa: E731
        logits = lm.run_with_replacement(tokens, hookpoint, hooked)[:, 1:-1]
        return torch.nn.functional.cross_entropy(logits.reshape(-1, 37), tokens[:, 2:].reshape(-1)).item()

    clean, zero, ours = loss(lambda x: x), loss(torch.zeros_like), loss(sae)
    assert values["ce_loss_recovered"] == pytest.approx((zero - ours) / (zero - clean), rel=1e-4)
    assert 0.0 < values["kl_div_recovered"] < 1.0
