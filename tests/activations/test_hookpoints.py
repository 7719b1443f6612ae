from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.activations.hookpoints import find_hookpoint, list_hookpoints
from harness.activations.language_model import LanguageModel
from harness.errors import HookpointError

LMOf = Callable[[str], LanguageModel]


@pytest.mark.parametrize(
    ("family", "path", "attention", "mlp"),
    [
        ("llama", "model.layers", "self_attn", "mlp"),
        ("mistral", "model.layers", "self_attn", "mlp"),
        ("qwen2", "model.layers", "self_attn", "mlp"),
        ("qwen3", "model.layers", "self_attn", "mlp"),
        ("gpt2", "transformer.h", "attn", "mlp"),
        ("gpt_neox", "gpt_neox.layers", "attention", "mlp"),
        ("gemma2", "model.layers", "post_attention_layernorm", "post_feedforward_layernorm"),
        ("gemma3", "model.layers", "post_attention_layernorm", "post_feedforward_layernorm"),
    ],
)
def test_aliases_name_the_modules_of_each_family(lm_of: LMOf, family: str, path: str, attention: str, mlp: str):
    model = lm_of(family).model
    kind = model.config.model_type
    sites = {
        name: find_hookpoint(model, kind, f"blocks.2.hook_{name}")
        for name in ("resid_pre", "resid_post", "attn_out", "mlp_out")
    }
    assert (sites["resid_pre"].path, sites["resid_pre"].side, sites["resid_pre"].next_layer) == (
        f"{path}.2",
        "input",
        2,
    )
    assert (sites["resid_post"].path, sites["resid_post"].side, sites["resid_post"].next_layer) == (
        f"{path}.2",
        "output",
        3,
    )
    assert sites["attn_out"].path == f"{path}.2.{attention}"
    assert sites["mlp_out"].path == f"{path}.2.{mlp}"


def test_all_aliases_are_listed_and_found(lm_of: LMOf):
    lm = lm_of("gpt2")
    names = lm.hookpoints()
    assert len(names) == 3 * 4
    assert {find_hookpoint(lm.model, "gpt2", name).side for name in names} == {"input", "output"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("blocks.3.hook_resid_post", r"blocks\.0 to blocks\.2 \(type llama\).*Near are blocks\.2\.hook_resid_post"),
        ("blocks.1.hook_mlp", r"hook_resid_pre, hook_resid_post, hook_attn_out, hook_mlp_out"),
        ("blocks.one.hook_mlp_out", "blocks.0 to blocks.2"),
        ("model.layers.1.mpl", r"Near are model\.layers\.1\.mlp"),
        ("", "Module paths begin with model, lm_head"),
    ],
)
def test_an_unknown_hookpoint_tells_which_exist(lm_of: LMOf, name: str, says: str):
    with pytest.raises(HookpointError, match=says):
        find_hookpoint(lm_of("llama").model, "llama", name)


def test_a_family_without_aliases_has_module_paths(lm_of: LMOf):
    model = lm_of("llama").model
    with pytest.raises(HookpointError, match=r"'opt' have no aliases.*gpt2.*Use a module path"):
        find_hookpoint(model, "opt", "blocks.0.hook_resid_post")
    site = find_hookpoint(model, "opt", "model.layers.0")
    assert (site.path, site.next_layer) == ("model.layers.0", None)
    assert "model.layers.0" in list_hookpoints(model, "opt")
