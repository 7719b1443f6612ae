"""Fetching labelled texts: what is refused, and what is mended. No network: small wheels are written here."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pyarrow
import pytest

from harness.data import fetch_labelled
from harness.data.fetch_labelled import COLLECTIONS, fetch_collection
from harness.data.labelled import load_collection
from harness.data.packaged_sets import AG_NEWS
from harness.errors import DataError, DiskSpaceError, UnknownNameError

MASTER = (
    "Dataset save name,Link,Data type\n"
    "cleaned_data/4_age.csv,,Continuous Data\n"
    "cleaned_data/5_mood.csv,https://mood.example,Binary Classification\n"
    "cleaned_data/7_sure.csv,^,Binary Classification\n"
)
NEWS = "".join(f"cleaned_data/{task}.csv,,Binary Classification\n" for task in AG_NEWS)
CODE = ["int main;", "def f(): pass"]


def table(rows) -> str:
    return "prompt,target\n" + "".join(f'"{prompt}",{target}\n' for prompt, target in rows)


FILES = {
    "cleaned_data/5_mood.csv": table([("so glad", 1), ("so sad", 0), ("So  sad", 0), ("both", 0), ("both", 1)]),
    "cleaned_data/7_sure.csv": table([("yes it is", "yes"), ("two\nlines", "no")]),
    "cleaned_data/161_agnews_0.csv": table([("a war", 1), *((code, 0) for code in CODE)]),
    "cleaned_data/162_agnews_1.csv": table([("a match", 1), *((code, 0) for code in CODE)]),
    "cleaned_data/163_agnews_2.csv": table([("a share", 1), *((code, 0) for code in CODE)]),
}


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of the form of the pinned one, pinned in its place."""
    path = tmp_path / "sae_probes.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {"probing_datasets_MASTER.csv": MASTER + NEWS, **FILES}.items():
            packed = pyarrow.Codec("zstd").compress(text.encode(), asbytes=True)
            archive.writestr(f"sae_probes/data/{name}.zst", packed)
    pin(monkeypatch, "sae-probes", path)
    return path


def pin(monkeypatch: pytest.MonkeyPatch, name: str, path: Path, needed_bytes: int = 0) -> None:
    """Make this file the pinned one of a collection."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    package = dataclasses.replace(COLLECTIONS[name], sha256=sha256, needed_bytes=needed_bytes)
    monkeypatch.setitem(COLLECTIONS, name, package)


def test_binary_tasks_come_cleaned(tmp_path: Path, wheel: Path):
    fetch_collection("sae-probes", tmp_path / "labelled" / "sae-probes", file=wheel)
    sets = {labelled.name: labelled for labelled in load_collection(tmp_path / "labelled", "sae-probes")}
    assert sets.keys() == {"5_mood", "7_sure", *AG_NEWS}
    assert dict(zip(sets["5_mood"].texts, sets["5_mood"].labels, strict=True)) == {"so glad": 1, "so sad": 0}
    assert sets["7_sure"].classes == ("no", "yes")
    assert sets["7_sure"].labels == (1, 0)
    assert sets["7_sure"].source == "https://mood.example", "'^' is the link above"


def test_news_are_told_from_news_and_not_from_code(tmp_path: Path, wheel: Path):
    fetch_collection("sae-probes", tmp_path / "labelled" / "sae-probes", file=wheel)
    sets = {labelled.name: labelled for labelled in load_collection(tmp_path / "labelled", "sae-probes")}
    sports = sets["162_agnews_1"]
    assert dict(zip(sports.texts, sports.labels, strict=True)) == {"a war": 0, "a match": 1, "a share": 0}


def test_a_second_fetch_does_nothing(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch):
    folder = fetch_collection("sae-probes", tmp_path / "labelled", file=wheel)
    monkeypatch.setattr(fetch_labelled.subprocess, "run", None)
    assert fetch_collection("sae-probes", folder) == folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labelled", "sae_probes.whl"]


def test_another_file_is_refused(tmp_path: Path, wheel: Path):
    wheel.write_bytes(wheel.read_bytes() + b" ")
    with pytest.raises(DataError, match=r"is not the pinned sae-probes==0\.4\.2: its sha256 is"):
        fetch_collection("sae-probes", tmp_path / "labelled", file=wheel)
    assert not (tmp_path / "labelled").exists()


def test_nothing_is_written_over(tmp_path: Path, wheel: Path):
    (tmp_path / "labelled").mkdir()
    (tmp_path / "labelled" / "mine").write_text("mine")
    with pytest.raises(DataError, match="is no complete fetch"):
        fetch_collection("sae-probes", tmp_path / "labelled", file=wheel)


def test_a_full_disk_is_told_before_anything_is_made(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch):
    pin(monkeypatch, "sae-probes", wheel, needed_bytes=10**18)
    with pytest.raises(DiskSpaceError, match="are free"):
        fetch_collection("sae-probes", tmp_path / "labelled", file=wheel)


def test_without_a_network_the_mend_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="ERROR: no network")
    monkeypatch.setattr(fetch_labelled.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(DataError, match=r"no network Download the file where there is a network \(pip download"):
        fetch_collection("sae-probes", tmp_path / "labelled")


def test_an_unknown_collection_names_what_there_is(tmp_path: Path):
    with pytest.raises(UnknownNameError, match=r"known are .*sae-probes, vader.*Did you mean vader"):
        fetch_collection("vadr", tmp_path)


def test_ratings_become_signs_and_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines = "1\t2.5\t{0} good\n2\t-1.5\t{0} bad\n3\t0.2\t{0} dull\n4\t-3.0\t{0} caf\u00e9\tno\n"
    files = ("amazonReviewSnippets", "movieReviewSnippets", "nytEditorialSnippets", "tweets")
    inner = packed({f"hutto_ICWSM_2014/{name}_GroundTruth.txt": lines.format(name).encode("latin-1") for name in files})
    path = tmp_path / "vader.tar.gz"
    path.write_bytes(packed({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner}))
    pin(monkeypatch, "vader", path)
    fetch_collection("vader", tmp_path / "labelled" / "vader", file=path)
    sets = {labelled.name: labelled for labelled in load_collection(tmp_path / "labelled", "vader")}
    assert sets.keys() == {"source", *(f"sentiment_{name}" for name in ("amazon", "movies", "news", "tweets"))}
    assert sets["sentiment_tweets"].texts == ("tweets good", "tweets bad", "tweets caf\u00e9\tno")
    assert sets["sentiment_tweets"].labels == (1, 0, 0)
    assert sets["source"].classes == ("amazon", "movies", "news", "tweets")
    assert len(sets["source"]) == 16, "all snippets have a source, also those of no clear sentiment"


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
