"""The LMs that the benchmark runs: which hookpoint, which SAE on it."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

from harness.data.text_source import package_folder

TEXT = "package:harness.builtin.tiny/text.jsonl.gz"
SEQ_LEN = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkLM:
    """An LM that has learnt something, so that its loss can be hurt and recovered."""

    name: str
    source: str
    """As in a suite."""
    layer: int
    """Whose output is taken: the middle of the LM."""
    d_sae: int
    k: int
    note: str

    @property
    def hookpoint(self) -> str:
        """Where the SAE is."""
        return f"blocks.{self.layer}.hook_resid_post"


LMS = {
    lm.name: lm
    for lm in (
        BenchmarkLM(
            name="tiny",
            source="package:harness.builtin.tiny",
            layer=1,
            d_sae=1536,
            k=32,
            note="the embedded LM: d_in 192, 4 layers, 4096 tokens in its vocabulary",
        ),
        BenchmarkLM(
            name="smollm2",
            source="fetched:smollm2",
            layer=14,
            d_sae=2304,
            k=32,
            note="SmolLM2-135M-Instruct, as `sae-harness fetch smollm2` gives it: d_in 576, 30 layers, 49152 tokens",
        ),
    )
}

GPT2_SMALL = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
GPT2_TOY = {"n_embd": 64, "n_layer": 4, "n_head": 2, "n_positions": 128, "vocab_size": 4096}
"""Shapes of LMs with random weights: their speed is that of trained ones."""


def write_text(folder: Path, n_characters: int) -> Path:
    """Documents of the embedded text as a local `.jsonl`, which every side can read: every n-th one, since they are
    sorted by split. All of it where more is asked for."""
    source = package_folder("harness.builtin.tiny")
    assert source is not None, "the embedded text is part of the harness"
    path = folder / f"text-{n_characters}.jsonl"
    with gzip.open(source / "text.jsonl.gz", "rt", encoding="utf-8") as lines:
        documents = list(lines)
    stride = max(1, sum(map(len, documents)) // n_characters)
    path.write_text("".join(documents[::stride]), encoding="utf-8")
    return path
