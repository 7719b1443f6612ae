from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.activations.language_model import load_language_model
from harness.activations.loading import load_model
from harness.activations.sources import resolve_lm
from harness.config import LMConfig
from harness.errors import MissingModelError


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


def test_a_gguf_file_gives_plain_float32_weights(tmp_path: Path):
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

    tokens = torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))
    config = LMConfig(source=str(tmp_path / "tiny.gguf"))
    lm = load_language_model(config, resolve_lm(config, tmp_path))
    assert (lm.n_layers, lm.d_model, lm.vocab_size, lm.model.dtype) == (1, 32, 63, torch.float32)
    embedded = lm.capture(tokens, ["blocks.0.hook_resid_pre"])["blocks.0.hook_resid_pre"]
    assert torch.equal(embedded, torch.from_numpy(weights["token_embd"])[tokens])
    assert torch.isfinite(lm.logits(tokens)).all()


def test_gpt2s_gelu_is_replaced_by_torchs_of_the_same_formula(model_folder: Callable[[str], Path], tmp_path: Path):
    import transformers
    from transformers.activations import NewGELUActivation

    theirs = transformers.AutoModelForCausalLM.from_pretrained(model_folder("gpt2"), dtype=torch.float32)
    assert any(isinstance(m, NewGELUActivation) for m in theirs.modules())
    ours = load_model(resolve_lm(LMConfig(source=str(model_folder("gpt2"))), tmp_path), torch.float32)
    assert not any(isinstance(m, NewGELUActivation) for m in ours.modules())
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens).logits, theirs(tokens).logits, rtol=1e-5, atol=1e-6)
