"""`fetch` of labelled texts: what is refused, and where they come to lie."""

from __future__ import annotations

import pyarrow
import pyarrow.parquet


def test_a_file_that_is_not_the_pinned_one_is_refused(fresh, tmp_path):
    (tmp_path / "texts.whl").write_bytes(b"something else")
    line = fresh.error("fetch", "sae-probes", "--wheel", str(tmp_path / "texts.whl"))
    assert "texts.whl is not the pinned sae-probes==0.4.2" in line
    assert not (fresh.cache / "labelled" / "sae-probes").exists()


def test_a_set_of_the_hub_is_read_out_of_a_folder_of_copies(fresh, tmp_path):
    for split in ("train", "test"):
        file = tmp_path / "copies" / "fancyzhx" / "ag_news" / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"text": f"{split} news {n} of {label}", "label": label} for label in range(4) for n in range(9)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    said = fresh.ok("fetch", "ag-news", "--from", str(tmp_path / "copies"))
    folder = fresh.cache / "labelled" / "ag-news"
    assert f"ag-news in {folder}: fancyzhx/ag_news: World, Sports, Business, Sci/Tech" in str(said)
    assert (folder / "fetched.json").is_file()


def test_options_of_the_other_kind_of_source_are_refused(fresh, tmp_path):
    (tmp_path / "x.whl").write_bytes(b"")
    line = fresh.error("fetch", "ag-news", "--wheel", str(tmp_path / "x.whl"))
    assert "ag-news comes from the hub: use --from FOLDER" in line
    assert "'vader' is none: use --wheel" in fresh.error("fetch", "vader", "--from", str(tmp_path))
