"""Tiny random language models on disk, with a word-level tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.activations import store as store_module
from harness.activations.language_model import LanguageModel, load_language_model
from harness.activations.sources import resolve_lm
from harness.artefacts.cache import Cache
from harness.config import LMConfig
from harness.data.text import TokenizedText

N_WORDS = 60
N_SEQ, SEQ_LEN = 11, 8
_SMALL = {
    "vocab_size": N_WORDS + 3,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}


def _config(family: str) -> Any:
    import transformers as t

    if family == "gpt2":
        return t.GPT2Config(
            vocab_size=N_WORDS + 3, n_embd=16, n_layer=3, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=2
        )
    if family == "gpt_neox":
        return t.GPTNeoXConfig(**{k: v for k, v in _SMALL.items() if k != "num_key_value_heads"})
    names = {"llama": "Llama", "gemma2": "Gemma2", "gemma3": "Gemma3Text", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    extra = {"head_dim": 8} if family.startswith(("gemma", "qwen3")) else {}
    if family.startswith("gemma"):
        extra["sliding_window"] = 4
    return getattr(t, names.get(family, family.title()) + "Config")(**_SMALL, **extra)


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i + 3 for i in range(N_WORDS)}}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family name to the folder of a random model of that family, made once."""
    from transformers import AutoModelForCausalLM

    made: dict[str, Path] = {}

    def folder_of(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            torch.manual_seed(0)
            AutoModelForCausalLM.from_config(_config(family)).save_pretrained(folder)
            _save_tokenizer(folder)
            made[family] = folder
        return made[family]

    return folder_of


@pytest.fixture(scope="session")
def lm_of(model_folder: Callable[[str], Path]) -> Callable[[str], LanguageModel]:
    """Family name to a loaded language model."""
    loaded: dict[str, LanguageModel] = {}

    def get(family: str) -> LanguageModel:
        if family not in loaded:
            config = LMConfig(source=str(model_folder(family)))
            loaded[family] = load_language_model(config, resolve_lm(config, Path("unused")))
        return loaded[family]

    return get


@pytest.fixture
def text() -> TokenizedText:
    """11 sequences of 8 tokens, some of them special, for the language models here."""
    tokens = np.random.default_rng(0).integers(3, 60, (N_SEQ, SEQ_LEN)).astype(np.int32)
    tokens[:, 0] = 1
    tokens[4, 5] = 2
    return TokenizedText(
        tokens=tokens,
        document=np.arange(N_SEQ, dtype=np.int64) // 2,
        mask=tokens > 2,
        document_hashes=tuple("abcdef"),
        fingerprint="f",
        inputs={"text": "t", "split": "train"},
    )


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most three sequences of the residual stream a shard: 4 shards."""
    monkeypatch.setattr(store_module, "SHARD_BYTES", 3 * SEQ_LEN * 16 * 4)
