"""Names of hookpoints: `blocks.L.hook_*` aliases of the common decoder families, and module paths of any model."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal, cast

from torch import nn

from ..errors import HookpointError

_ALIAS = re.compile(r"blocks\.(\d+)\.(hook_\w+)\Z")
_KINDS = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """Where a family keeps its decoder layers, and which child of a layer writes to the residual stream."""

    layers: tuple[str, ...]
    """Paths of the list of layers; the first that exists counts."""
    attention: str
    mlp: str


_LLAMA = _Family(layers=("model.layers",), attention="self_attn", mlp="mlp")
# Gemma 2 and 3 normalise once more before they add to the residual stream: what is added is the norm's output.
_GEMMA = _Family(
    layers=("model.layers", "model.language_model.layers"),
    attention="post_attention_layernorm",
    mlp="post_feedforward_layernorm",
)
_FAMILIES = {
    "gpt2": _Family(layers=("transformer.h",), attention="attn", mlp="mlp"),
    "gpt_neox": _Family(layers=("gpt_neox.layers",), attention="attention", mlp="mlp"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "gemma3_text": _GEMMA,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HookSite:
    """Where a hookpoint is in a model."""

    path: str
    """Module path."""
    side: Literal["input", "output"]
    next_layer: int | None
    """For the residual stream: the layer that reads it (the number of layers after the last); else None."""


def decoder_layers(model: nn.Module, model_type: str) -> tuple[str, nn.ModuleList] | None:
    """Path and list of the decoder layers, or None where the family is not known."""
    family = _FAMILIES.get(model_type)
    if family is None:
        return None
    modules = dict(model.named_modules())
    for path in family.layers:
        if path in modules:
            return path, cast(nn.ModuleList, modules[path])
    return None


def list_hookpoints(model: nn.Module, model_type: str) -> tuple[str, ...]:
    """All aliases of a model, or its module paths where its family has none."""
    found = decoder_layers(model, model_type)
    if found is None:
        return tuple(path for path, _ in model.named_modules() if path)
    return tuple(f"blocks.{layer}.{kind}" for layer in range(len(found[1])) for kind in _KINDS)


def find_hookpoint(model: nn.Module, model_type: str, name: str) -> HookSite:
    """The place of a hookpoint.

    Raises:
        HookpointError: there is none of that name; says which exist.
    """
    alias = _ALIAS.match(name)
    if alias or name.startswith("blocks."):
        return _alias_site(model, model_type, name, alias)
    paths = [path for path, _ in model.named_modules() if path]
    if name not in paths:
        near = difflib.get_close_matches(name, paths, n=3)
        hint = f"Near are {', '.join(near)}." if near else f"Module paths begin with {_tops(model)}."
        raise HookpointError(f"No hookpoint {name!r}: {_aliases_text(model, model_type)}, or a module path. {hint}")
    found = decoder_layers(model, model_type)
    head, _, last = name.rpartition(".")
    is_layer = found is not None and head == found[0]
    return HookSite(path=name, side="output", next_layer=int(last) + 1 if is_layer else None)


def _alias_site(model: nn.Module, model_type: str, name: str, alias: re.Match[str] | None) -> HookSite:
    found = decoder_layers(model, model_type)
    if found is None:
        raise HookpointError(
            f"No hookpoint {name!r}: models of type {model_type!r} have no aliases (types with aliases: "
            f"{', '.join(sorted(_FAMILIES))}). Use a module path; they begin with {_tops(model)}."
        )
    root, layers = found
    if alias is None or alias[2] not in _KINDS or int(alias[1]) >= len(layers):
        near = difflib.get_close_matches(name, list_hookpoints(model, model_type), n=2)
        hint = f" Near are {', '.join(near)}." if near else ""
        raise HookpointError(f"No hookpoint {name!r}: {_aliases_text(model, model_type)}, or a module path.{hint}")
    family, layer = _FAMILIES[model_type], int(alias[1])
    path = f"{root}.{layer}"
    if alias[2] == "hook_resid_pre":
        return HookSite(path=path, side="input", next_layer=layer)
    if alias[2] == "hook_resid_post":
        return HookSite(path=path, side="output", next_layer=layer + 1)
    child = family.attention if alias[2] == "hook_attn_out" else family.mlp
    return HookSite(path=f"{path}.{child}", side="output", next_layer=None)


def _aliases_text(model: nn.Module, model_type: str) -> str:
    """What exists, in words."""
    found = decoder_layers(model, model_type)
    if found is None:
        return f"models of type {model_type!r} have no aliases"
    return f"there are blocks.0 to blocks.{len(found[1]) - 1} (type {model_type}), each with {', '.join(_KINDS)}"


def _tops(model: nn.Module) -> str:
    return ", ".join(name for name, _ in model.named_children())
