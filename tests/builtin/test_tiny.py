"""The shipped tiny language model and its text: that the files fit together, and how the text was made."""

from __future__ import annotations

import gzip
import hashlib
import json
from importlib import resources
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.builtin.tiny import corpus
from harness.builtin.tiny.train import SAMPLE_NAME, orthogonalise

FOLDER = Path(str(resources.files("harness.builtin"))) / "tiny"


def read_sample() -> list[dict[str, str]]:
    with gzip.open(FOLDER / SAMPLE_NAME, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_tokenizer_adds_nothing_and_gives_every_text_back() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    text = "The  Senate — naïve\n\tdef f(x): return '日本'"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 0
    assert 0 not in ids
    assert tokenizer.decode(ids) == text
    assert len(tokenizer) == 4096


def test_model_predicts_its_held_out_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    lm = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    texts = [document["text"] for document in read_sample()[:64]]
    rows = torch.tensor([[0, *tokenizer(text)["input_ids"]][:100] for text in texts if len(text) > 800])
    with torch.no_grad():
        loss = lm(input_ids=rows, labels=rows).loss.item()
    assert loss < 4.5, "nats a token; an untrained model has ln 4096 = 8.3"


def test_sample_is_large_and_mixed_and_has_no_text_twice() -> None:
    sample = read_sample()
    assert {document["source"] for document in sample} == set(corpus.READERS)
    assert min(len(document["text"]) for document in sample) >= corpus.MIN_SAMPLE_CHARS
    assert sum(len(document["text"]) for document in sample) > 5_500_000
    assert len({document["text"] for document in sample}) == len(sample)


def test_cut_keeps_every_paragraph_and_the_limit() -> None:
    paragraphs = [f"{i} " + "word " * 50 for i in range(40)]
    pieces = corpus.cut("\n\n".join(paragraphs), limit=1000)
    assert "\n\n".join(pieces) == "\n\n".join(paragraphs)
    assert max(map(len, pieces)) <= 1000


def test_html_text_leaves_out_navigation_and_keeps_listings() -> None:
    page = (
        "<html><head><title>t</title></head><body><div class='navheader'><div>Prev</div></div>"
        "<p>One\n  two &amp; three<p>Four<pre>a\n  b</pre><script>x()</script></body></html>"
    )
    assert corpus.html_text(page) == "One two & three\n\nFour\n\na\n  b"


def test_rest_text_resolves_roles_and_joins_prose() -> None:
    source = (
        "Title\n=====\n\n.. index:: x\n\nThe function :func:`~json.dumps` turns ``obj`` into a\n"
        "string, see `the RFC <https://example.org>`_.\n\n::\n\n    >>> f()\n    1\n"
    )
    text = corpus.rest_text(source)
    assert "The function json.dumps turns obj into a string, see the RFC." in text.replace("\n", " ")
    assert "    >>> f()\n    1" in text
    assert "====" not in text
    assert "index" not in text


def test_write_sample_gives_the_same_bytes_and_only_held_out_text(tmp_path: Path) -> None:
    long = "word " * 200
    documents = [
        corpus.Document(text=long, source="sotu", held_out=True),
        corpus.Document(text=long + "seen", source="sotu", held_out=False),
        corpus.Document(text="short", source="sotu", held_out=True),
    ]
    digests = set()
    for name in ("a.gz", "b.gz"):
        corpus.write_sample(documents, tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1
    lines = gzip.decompress((tmp_path / "a.gz").read_bytes()).decode().splitlines()
    assert [json.loads(line) for line in lines] == [{"text": long, "source": "sotu"}]


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8)])
def test_orthogonalise_brings_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.4
