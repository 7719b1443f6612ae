"""`fetch` of labelled texts: what is refused, and where they come to lie."""

from __future__ import annotations


def test_a_file_that_is_not_the_pinned_one_is_refused(fresh, tmp_path):
    (tmp_path / "texts.whl").write_bytes(b"something else")
    line = fresh.error("fetch", "sae-probes", "--wheel", str(tmp_path / "texts.whl"))
    assert "texts.whl is not the pinned sae-probes==0.4.2" in line
    assert not (fresh.cache / "labelled" / "sae-probes").exists()
