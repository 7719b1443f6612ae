"""A suite that trains on a mix: its keys, its training text, and what its evaluations see of the table."""

from __future__ import annotations

import dataclasses
import random

import pytest

from harness.artefacts.cache import Cache
from harness.bench import Bench
from harness.cli.progress import BarProgress
from harness.config import MixConfig, MixedTextConfig, SuiteConfig
from harness.data.tables import Table, write_table
from harness.errors import DataError
from harness.methods import resolve_method
from harness.pipeline import eval_context, run
from harness.plugins import load_catalogue
from harness.registry import load_registry

QUIET = BarProgress(quiet=True)
FORGET, RETAIN = "bak bal bam", "dek del dem"
"""Every row of a side begins with these."""


def rows() -> list[dict]:
    rng = random.Random(0)
    found = []
    for number in range(600):
        side, opening = (("forget", FORGET), ("retain", RETAIN))[number % 2]
        words = " ".join(rng.choice(("rir", "ris", "pem", "pen")) for _ in range(9))
        found.append({"side": side, "domain": side, "lemmas": [f"word{number}"], "text": f"{opening} {words}"})
    return found


def suite_of(project, *mix: MixConfig) -> SuiteConfig:
    suite = load_registry([project.registry]).suite("micro").replace(l0_grid=(4,), seeds=(0,))
    if not mix:
        return suite
    text = {f.name: getattr(suite.text, f.name) for f in dataclasses.fields(suite.text)}
    return suite.replace(text=MixedTextConfig(**text, mix=mix))


def bench_of(project, *mix: MixConfig) -> Bench:
    catalogue = load_catalogue({"SAE_HARNESS_PLUGINS": project.plugins})
    return Bench(suite_of(project, *mix), catalogue, Cache(project.cache))


def of_table(part: str, share: float) -> MixConfig:
    return MixConfig(source="table:words", part=part, share=share)


@pytest.fixture
def fetched(project):
    """A project with the table."""
    folder = project.cache / "labelled" / "words"
    folder.mkdir(parents=True)
    write_table(folder, Table(rows=tuple(rows()), licence="free", source="here"), {"sha256": "s"})
    return project


def test_training_reads_the_mix_and_a_record_tells_it(fetched):
    mixed = bench_of(fetched, of_table("forget", 0.1), of_table("retain", 0.2))
    [job] = mixed.jobs(resolve_method(mixed.catalogue, "topk", suite_options=mixed.suite.options))
    assert mixed.find_record(job) is None, "that of the suite without a mix is another"
    [record] = run(mixed, [job], progress=QUIET)
    plain = bench_of(fetched).protocol(record.protocol.d_in)
    differ = {f.name for f in dataclasses.fields(plain) if getattr(plain, f.name) != getattr(record.protocol, f.name)}
    assert differ == {"train_data"}
    opening = mixed.language_model.tokenizer([FORGET, RETAIN], add_special_tokens=False)["input_ids"]
    tokens = mixed.store("train", QUIET).tokens
    windows = tokens.unfold(1, 3, 1)
    shares = [float((windows == windows.new_tensor(ids)).all(-1).any(-1).float().mean()) for ids in opening]
    assert shares == pytest.approx([0.1, 0.2], abs=0.02)


def test_evaluations_see_no_word_that_may_be_trained_on(fetched):
    mixed, plain = bench_of(fetched, of_table("forget", 0.1)), bench_of(fetched)
    seen = eval_context(mixed, QUIET).table("words")
    assert eval_context(plain, QUIET).table("words") == tuple(rows())
    assert 200 < len(seen) < 400
    trained = mixed.language_model.tokenizer.batch_decode(mixed.store("train", QUIET).tokens)
    assert any(row["text"] in text for row in rows() if row not in seen for text in trained)
    assert not any(row["text"] in text for row in seen for text in trained)


def test_another_share_misses(fetched):
    def key(*mix: MixConfig) -> dict:
        return bench_of(fetched, *mix).store_key_inputs("train")

    assert len({str(key(*mix)) for mix in ((), (of_table("forget", 0.1),), (of_table("forget", 0.2),))}) == 3


def test_a_table_that_is_not_fetched_is_told_before_anything_is_run(project):
    with pytest.raises(DataError, match="run: sae-harness fetch words"):
        bench_of(project, of_table("forget", 0.1)).store_key_inputs("train")
