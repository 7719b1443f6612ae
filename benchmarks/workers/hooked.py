"""A local folder as a TransformerLens model, for the peers that run on one."""

from __future__ import annotations

from typing import Any

import torch
import transformer_lens.loading_from_pretrained as loading  # pyright: ignore[reportMissingImports]
from transformer_lens import HookedTransformer  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(folder: str, device: str) -> Any:
    """What `HookedTransformer.from_pretrained_no_processing` makes: it takes the names of hub models only, so its
    parts are called one by one."""
    source = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    options = {"device": device, "dtype": torch.float32, "fold_ln": False}
    config = loading.get_pretrained_model_config(folder, hf_cfg=source.config.to_dict(), **options)
    weights = loading.get_pretrained_state_dict(folder, config, source, dtype=torch.float32)
    model = HookedTransformer(config, AutoTokenizer.from_pretrained(folder), move_to_device=False)
    model.load_and_process_state_dict(
        weights,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
        refactor_factored_attn_matrices=False,
    )
    model.move_model_modules_to_device()
    return model.eval()
