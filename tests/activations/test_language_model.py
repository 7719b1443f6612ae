from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.activations.language_model import LanguageModel, load_language_model
from harness.activations.sources import resolve_lm
from harness.config import LMConfig
from harness.errors import DataError, HookpointError, MissingModelError, ShapeError

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


def test_nothing_is_loaded_before_it_is_used(model_folder: Callable[[str], Path], tmp_path: Path):
    folder = tmp_path / "lm"
    shutil.copytree(model_folder("llama"), folder)
    config = LMConfig(source=str(folder))
    lm = load_language_model(config, resolve_lm(config, tmp_path))
    shutil.rmtree(folder)
    assert lm.name == "lm"
    assert len(lm.weights_sha256) == 64
    with pytest.raises(MissingModelError, match="cannot be loaded"):
        lm.vocab_size  # noqa: B018


def test_weights_that_lack_a_parameter_are_refused(model_folder: Callable[[str], Path], tmp_path: Path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(model_folder("llama"), tmp_path / "lm")
    weights = load_file(tmp_path / "lm" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "lm" / "model.safetensors", metadata={"format": "pt"})
    config = LMConfig(source=str(tmp_path / "lm"))
    with pytest.raises(MissingModelError, match=r"lacks the weights of 1 parameters .*model\.layers\.1\.mlp\.up_proj"):
        load_language_model(config, resolve_lm(config, tmp_path)).logits(torch.zeros(1, 1, dtype=torch.int64))


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


def test_a_gguf_file_gives_plain_float32_weights(tmp_path: Path, tokens: torch.Tensor):
    gguf = pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    for add, value in (
        (writer.add_block_count, 1), (writer.add_embedding_length, 32), (writer.add_feed_forward_length, 64),
        (writer.add_head_count, 2), (writer.add_head_count_kv, 2), (writer.add_context_length, 16),
        (writer.add_rope_dimension_count, 16), (writer.add_vocab_size, 63), (writer.add_layer_norm_rms_eps, 1e-5),
    ):  # fmt: skip
        add(value)
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd": (63, 32),
        "output_norm": (32,),
        "output": (63, 32),
        "blk.0.attn_norm": (32,),
        "blk.0.ffn_norm": (32,),
    }
    shapes |= {f"blk.0.attn_{name}": (32, 32) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, values in weights.items():
        if values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            weights[name] = gguf.dequantize(gguf.quantize(values, kind), kind)
            writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    config = LMConfig(source=str(tmp_path / "tiny.gguf"))
    lm = load_language_model(config, resolve_lm(config, tmp_path))
    assert (lm.n_layers, lm.d_model, lm.vocab_size, lm.model.dtype) == (1, 32, 63, torch.float32)
    embedded = lm.capture(tokens, ["blocks.0.hook_resid_pre"])["blocks.0.hook_resid_pre"]
    assert torch.equal(embedded, torch.from_numpy(weights["token_embd"])[tokens])
    assert torch.isfinite(lm.logits(tokens)).all()
