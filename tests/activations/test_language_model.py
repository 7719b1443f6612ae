from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.activations.language_model import LanguageModel, load_language_model
from harness.activations.sources import resolve_lm
from harness.config import LMConfig
from harness.errors import DataError, HookpointError, ShapeError

FAMILIES = ("llama", "gpt2", "gpt_neox", "gemma2", "gemma3", "qwen2", "qwen3", "mistral")
LMOf = Callable[[str], LanguageModel]


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))


def _hidden_states(lm: LanguageModel, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """transformers' own account: the residual stream before each layer; the last entry is after the final norm."""
    with torch.no_grad():
        return lm.model(input_ids=tokens, output_hidden_states=True, use_cache=False).hidden_states


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_hookpoints_are_the_hidden_states_of_transformers(lm_of: LMOf, tokens: torch.Tensor, family: str):
    lm = lm_of(family)
    states = _hidden_states(lm, tokens)
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(3)] + [
        f"blocks.{layer}.hook_resid_post" for layer in range(2)
    ]
    found = lm.capture(tokens, names)
    for layer in range(3):
        torch.testing.assert_close(found[f"blocks.{layer}.hook_resid_pre"], states[layer])
    for layer in range(2):
        torch.testing.assert_close(found[f"blocks.{layer}.hook_resid_post"], states[layer + 1])


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_mlp_outputs_add_up_to_the_residual_stream(lm_of: LMOf, tokens: torch.Tensor, family: str):
    kinds = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    found = lm_of(family).capture(tokens, [f"blocks.2.hook_{kind}" for kind in kinds])
    before, attention, mlp, after = (found[f"blocks.2.hook_{kind}"] for kind in kinds)
    torch.testing.assert_close(before + attention + mlp, after)


@pytest.mark.parametrize(
    "hookpoint",
    ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_post", "blocks.2.hook_resid_pre", "blocks.2.hook_resid_post"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_resuming_equals_running_with_replacement(lm_of: LMOf, tokens: torch.Tensor, family: str, hookpoint: str):
    lm = lm_of(family)
    layers = list(lm.model.modules())
    activations = lm.capture(tokens, [hookpoint])[hookpoint]
    replace = lambda x: 0.5 * x + 0.1  # noqa: E731
    whole = lm.run_with_replacement(tokens, hookpoint, replace)
    resumed = lm.run_with_replacement(tokens, hookpoint, replace, activations=activations)
    torch.testing.assert_close(resumed, whole, atol=1e-5, rtol=0)
    assert not torch.allclose(whole, lm.logits(tokens), atol=1e-3)
    assert list(lm.model.modules()) == layers, "the model is left as it was"


@pytest.mark.parametrize("kind", ["resid_pre", "resid_post", "attn_out", "mlp_out"])
@pytest.mark.parametrize("family", FAMILIES)
def test_replacing_by_the_identity_leaves_the_logits(lm_of: LMOf, tokens: torch.Tensor, family: str, kind: str):
    lm = lm_of(family)
    torch.testing.assert_close(lm.run_with_replacement(tokens, f"blocks.1.hook_{kind}", lambda x: x), lm.logits(tokens))


def test_given_activations_are_used_off_the_residual_stream_too(lm_of: LMOf, tokens: torch.Tensor):
    lm = lm_of("llama")
    name = "blocks.1.hook_mlp_out"
    activations = lm.capture(tokens, [name])[name]
    doubled = lm.run_with_replacement(tokens, name, lambda x: x, activations=2 * activations)
    torch.testing.assert_close(doubled, lm.run_with_replacement(tokens, name, lambda x: 2 * x))


def test_module_path_of_a_layer_is_its_residual_output(lm_of: LMOf, tokens: torch.Tensor):
    lm = lm_of("llama")
    found = lm.capture(tokens, ["model.layers.1", "blocks.1.hook_resid_post", "model.layers.1.mlp.gate_proj"])
    assert torch.equal(found["model.layers.1"], found["blocks.1.hook_resid_post"])
    assert lm.hook_dim("model.layers.1.mlp.gate_proj") == 24
    assert lm.hook_dim("blocks.1.hook_resid_post") == lm.d_model == 16
    assert torch.allclose(
        lm.resume_from("model.layers.1", found["model.layers.1"], tokens), lm.logits(tokens), atol=1e-5
    )


def test_capture_stops_after_the_last_hookpoint(lm_of: LMOf, tokens: torch.Tensor):
    lm = lm_of("llama")
    ran: list[int] = []
    handles = [
        layer.register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(lm.model.model.layers)
    ]
    lm.capture(tokens, ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"])
    for handle in handles:
        handle.remove()
    assert ran == [0, 1] or ran == [0]
    for hookpoint, expected in (("blocks.0.hook_attn_out", [0]), ("model.layers.1.mlp", [0, 1])):
        assert _layers_run(lm, lambda h=hookpoint: lm.capture(tokens, [h])) == expected


def _layers_run(lm: LanguageModel, call: Callable[[], object]) -> list[int]:
    """The decoder layers of a Llama that a call runs, and no norm or head after them."""
    ran: list[int] = []
    watched = [*lm.model.model.layers, lm.model.model.norm, lm.model.lm_head]
    handles = [module.register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i, module in enumerate(watched)]
    call()
    for handle in handles:
        handle.remove()
    return ran


def test_resuming_runs_only_the_layers_that_follow(lm_of: LMOf, tokens: torch.Tensor):
    lm = lm_of("gpt2")
    activations = torch.zeros(2, 12, 16)
    lm.resume_from("blocks.1.hook_resid_post", activations, tokens)  # the first call also probes layer 0
    ran: list[int] = []
    handles = [
        layer.register_forward_pre_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(lm.model.transformer.h)
    ]
    lm.resume_from("blocks.1.hook_resid_post", activations, tokens)
    for handle in handles:
        handle.remove()
    assert ran == [2]


def test_lower_precision_gives_float32_out_and_restores_the_dtype_inside(
    model_folder: Callable[[str], Path], tokens: torch.Tensor
):
    config = LMConfig(source=str(model_folder("llama")), dtype="bfloat16")
    lm = load_language_model(config, resolve_lm(config, Path("unused")))
    name = "blocks.1.hook_resid_post"
    activations = lm.capture(tokens, [name])[name]
    assert lm.model.dtype == torch.bfloat16
    assert activations.dtype == lm.logits(tokens).dtype == torch.float32
    logits = lm.run_with_replacement(tokens, name, lambda x: x)
    assert torch.equal(logits, lm.logits(tokens))
    assert torch.equal(lm.resume_from(name, activations, tokens), logits)


def test_bad_shapes_and_places_are_told(lm_of: LMOf, tokens: torch.Tensor):
    lm = lm_of("llama")
    with pytest.raises(ShapeError, match="keep the shape"):
        lm.run_with_replacement(tokens, "blocks.1.hook_resid_post", lambda x: x[:, :3])
    with pytest.raises(ShapeError, match=r"must be \(2, 12, 16\)"):
        lm.resume_from("blocks.1.hook_resid_post", torch.zeros(2, 12, 8), tokens)
    with pytest.raises(HookpointError, match="not the residual stream"):
        lm.resume_from("blocks.1.hook_mlp_out", torch.zeros(2, 12, 16), tokens)
    with pytest.raises(HookpointError, match="choose another module"):
        lm.capture(tokens, ["model.rotary_emb"])
    with pytest.raises(DataError, match="too long"):
        lm.logits(torch.zeros(1, 33, dtype=torch.int64))
    torch.testing.assert_close(lm.logits(tokens), lm.logits(tokens))


def test_several_hookpoints_have_the_bits_of_each_alone(lm_of: LMOf, tokens: torch.Tensor):
    for family in FAMILIES:
        lm = lm_of(family)
        found = lm.capture(tokens, lm.hookpoints())
        for name, value in found.items():
            assert torch.equal(value, lm.capture(tokens, [name])[name]), (family, name)
    widths = lm_of("llama").hook_dims(["model.layers.0.mlp.gate_proj", "blocks.2.hook_attn_out"])
    assert widths == {"model.layers.0.mlp.gate_proj": 24, "blocks.2.hook_attn_out": 16}


def test_a_batch_is_smaller_for_wider_models_on_a_cpu(lm_of: LMOf, monkeypatch: pytest.MonkeyPatch):
    lm = lm_of("llama")
    sizes: dict[int, int] = {}
    for width in (16, 192, 768, 2304):
        monkeypatch.setattr(LanguageModel, "d_model", width)
        sizes[width] = lm.tokens_per_batch
    assert sizes == {16: 4096, 192: 1024, 768: 512, 2304: 512}
