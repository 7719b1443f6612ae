"""Reading a language model's weights and tokenizer with transformers, which is imported on first use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import MissingModelError
from .sources import LMSource


def load_model(source: LMSource, dtype: torch.dtype) -> Any:
    """The transformers model of a source.

    Raises:
        MissingModelError: the files cannot be loaded or lack weights.
    """
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": dtype, "local_files_only": True, "output_loading_info": True}
    if source.gguf:
        options |= {"gguf_file": source.gguf, "quantization_config": _dequantize()}
    try:
        with _no_progress_bar():
            loaded: Any = AutoModelForCausalLM.from_pretrained(source.folder, **options)
    except ImportError as error:
        raise MissingModelError(
            f"Language model {source.name!r} cannot be loaded, a package is missing: {_one_line(error)} "
            "GGUF files need: pip install gguf accelerate"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise MissingModelError(
            f"Language model {source.name!r} in {source.folder} cannot be loaded: {_one_line(error)} "
            "The folder must hold a causal model in a format that the installed transformers reads."
        ) from error
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise MissingModelError(
            f"Language model {source.name!r} in {source.folder} lacks the weights of {len(missing)} parameters "
            f"({', '.join(missing[:3])}, ...): its files are incomplete or belong to another config.json."
        )
    _in_one_pass(model)
    return model


def _in_one_pass(model: nn.Module) -> None:
    """Replace transformers' GELU of GPT-2's family, eight passes over the memory, by torch's of the same formula: a
    quarter of the time, another rounding."""
    from transformers.activations import NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Our own progress bars are the only ones on the screen."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _dequantize() -> Any:
    """Plain weights from a GGUF: a release that keeps them packed would compute other activations."""
    try:
        from transformers import GgufConfig
    except ImportError as error:
        raise MissingModelError(
            "GGUF files need transformers >= 5 (older ones build a wrong Gemma tokenizer): pip install -U transformers"
        ) from error
    return GgufConfig(dequantize=True)


def load_tokenizer(source: LMSource) -> Any:
    """The transformers tokenizer of a source.

    Raises:
        MissingModelError: its files cannot be loaded.
    """
    from transformers import AutoTokenizer

    options = {"gguf_file": source.gguf} if source.gguf else {}
    try:
        return AutoTokenizer.from_pretrained(source.folder, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise MissingModelError(
            f"The tokenizer of {source.name!r} in {source.folder} cannot be loaded: {_one_line(error)}"
        ) from error


def _one_line(error: Exception) -> str:
    return f"{' '.join(str(error).split()).rstrip('.')}."
