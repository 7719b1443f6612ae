"""SAEBench's sets out of small folders in the layouts of the hub's data sets. No network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from harness.data import fetch_hub as module
from harness.data.fetch_hub import ALL, HUB_COLLECTIONS, fetch_hub
from harness.data.hub_sets import ATTRIBUTES, SETS, HubSet, read_set
from harness.data.labelled import load_collection
from harness.data.tables import load_table
from harness.errors import DataError, UnknownNameError
from harness.evaluation.attribute_tasks import Sizes, classes_of, pairs_of

AMAZON = "canrager/amazon_reviews_mcauley_1and5"


def parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def bios(split: str, each: int) -> list[dict]:
    return [
        {"hard_text": f"{split} bio {number} of {profession} {gender}", "profession": profession, "gender": gender}
        for profession in range(28)
        for gender in (0, 1)
        for number in range(each + 3 * gender)
    ]


def reviews(split: str, each: int) -> list[dict]:
    return [
        {"text": f"{split} review {number} of {category} {rating}", "category": category, "rating": rating}
        for category in range(34)
        for rating in (1.0, 5.0)
        for number in range(each)
    ]


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """FOLDER/OWNER/NAME for the five repositories."""
    root = tmp_path_factory.mktemp("hub")
    for split, each in (("train", 12), ("test", 6)):
        parquet(root / "LabHC/bias_in_bios/data" / f"{split}-00000-of-00001.parquet", bios(split, 5 * each))
        parquet(root / AMAZON / "data" / f"{split}-00000-of-00001.parquet", reviews(split, 2 * each))
        news = [{"text": f"{split} news {n} of {label}", "label": label} for label in range(4) for n in range(each)]
        parquet(root / "fancyzhx/ag_news/data" / f"{split}-00000-of-00001.parquet", news)
    code = [
        {"content": "x" * 150 + f"code {n} of {ending} " + "y" * 400, "path": f"src/file{n}{ending}", "size": "9"}
        for ending in (".c", ".h", ".py", ".html", ".java", ".php", ".rs")
        for n in range(30)
    ]
    code.append({"content": "short", "path": "a.py", "size": "5"})
    parquet(root / "codeparrot/github-code/data/train-00000-of-01126.parquet", code)
    (root / "codeparrot/github-code/github-code.py").write_text("raise RuntimeError('a script is not run')\n")
    for pair in ("en-fr", "fr-it", "de-en", "es-fr", "nl-pt"):
        languages = pair.split("-")
        rows = [{"translation": {at: f"{at} {n} in {pair}" for at in languages}} for n in range(40)]
        parquet(root / "Helsinki-NLP/europarl" / pair / "train-00000-of-00001.parquet", rows)
    return root


def rows_of(root: Path, name: str):
    return load_table(root, name).rows


def test_each_set_has_saebenchs_name_and_classes(hub, tmp_path):
    fetch_hub(ALL, tmp_path / ALL, source=hub)
    rows = rows_of(tmp_path, ALL)
    classes = {own.published: set(own.classes) for own in SETS.values()}
    assert len(classes) == 8
    assert {name: {row["class"] for row in rows if row["set"] == name} for name in classes} == classes
    assert {row["split"] for row in rows} == {"train", "test"}
    sets = {labelled.name: labelled for labelled in load_collection(tmp_path, ALL)}
    assert sets.keys() == classes.keys()
    assert sum(map(len, sets.values())) == len(rows)


def test_bios_are_balanced_by_gender_within_each_profession(hub, tmp_path):
    fetch_hub("bias-in-bios-1", tmp_path / "bias-in-bios-1", source=hub)
    rows = rows_of(tmp_path, "bias-in-bios-1")
    counts = Counter((row["class"], row["split"], row["text"].split()[-1]) for row in rows)
    assert {row["class"] for row in rows} == {"accountant", "architect", "attorney", "dentist", "filmmaker"}
    assert set(counts.values()) == {60, 30}, "as many women as men, though the data hold more"


def test_code_loses_its_licence_and_is_told_apart_by_its_ending(hub, tmp_path):
    fetch_hub("github-code", tmp_path / "github-code", source=hub)
    rows = rows_of(tmp_path, "github-code")
    assert all(row["text"].startswith("code ") for row in rows)
    endings = {(row["class"], row["text"].split()[3]) for row in rows}
    assert endings == {
        ("C", ".c"),
        ("C", ".h"),
        ("Python", ".py"),
        ("HTML", ".html"),
        ("Java", ".java"),
        ("PHP", ".php"),
    }


def test_europarl_reads_each_language_from_its_own_corpus(hub, tmp_path):
    fetch_hub("europarl", tmp_path / "europarl", source=hub)
    rows = rows_of(tmp_path, "europarl")
    assert {(row["class"], row["text"].split()[-1]) for row in rows} == {
        ("en", "en-fr"),
        ("fr", "fr-it"),
        ("de", "de-en"),
        ("es", "es-fr"),
        ("nl", "nl-pt"),
    }
    assert Counter(row["split"] for row in rows)["train"] > 100


def test_the_tables_serve_tpp_and_scr(hub, tmp_path):
    sizes = Sizes(train=8, validation=8, test=8)
    for name in ("amazon-reviews", "amazon-attributes", "bias-in-bios-attributes"):
        fetch_hub(name, tmp_path / name, source=hub)
    categories = rows_of(tmp_path, "amazon-reviews")
    assert len(classes_of(categories, set_column="set", class_column="class", sizes=sizes, seed=0).tasks) == 5
    assert len({row["category"] for row in rows_of(tmp_path, "amazon-attributes")}) == 8
    people = rows_of(tmp_path, "bias-in-bios-attributes")
    pairs = pairs_of(people, target="profession", spurious="gender", sizes=sizes, seed=0)
    assert "nurse/professor" in {pair.name for pair in pairs.pairs}


@pytest.mark.parametrize("layout", ["NAME", "itself", "cache"])
def test_other_layouts_are_found(hub, tmp_path, layout):
    own = hub / "fancyzhx/ag_news"
    places = {
        "NAME": tmp_path / "ag_news",
        "itself": tmp_path / "ag_news",
        "cache": tmp_path / "datasets--fancyzhx--ag_news" / "snapshots" / "0f3a",
    }
    places[layout].parent.mkdir(parents=True, exist_ok=True)
    places[layout].symlink_to(own)
    source = places[layout] if layout == "itself" else tmp_path
    fetch_hub("ag-news", tmp_path / "out" / "ag-news", source=source)
    assert len(rows_of(tmp_path / "out", "ag-news")) == 4 * 18


def test_the_hub_is_asked_for_saebenchs_repositories(hub, tmp_path, monkeypatch):
    import datasets

    asked = []
    load = datasets.load_dataset

    def answer(place, name=None, *, split, streaming, data_files=None):
        asked.append((place, name, data_files, streaming))
        if data_files:
            copied = str(data_files).replace("hf://datasets", str(hub))
            return load(place, data_files=copied, split=split, streaming=streaming)
        return load(str(hub / place / (name or "")), split=split, streaming=streaming)

    monkeypatch.setattr(datasets, "load_dataset", answer)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    fetch_hub(ALL, tmp_path / ALL)
    assert {(place, name) for place, name, _, _ in asked if place != "parquet"} == {
        ("LabHC/bias_in_bios", None),
        (AMAZON, None),
        ("fancyzhx/ag_news", None),
        *(("Helsinki-NLP/europarl", pair) for pair in ("en-fr", "fr-it", "de-en", "es-fr", "nl-pt")),
    }
    assert ("parquet", None, "hf://datasets/codeparrot/github-code/data/*.parquet", True) in asked
    assert {streaming for place, _, _, streaming in asked if "europarl" in place} == {True}
    assert {streaming for place, _, _, streaming in asked if "bios" in place} == {False}


def test_what_datasets_has_in_its_cache_needs_no_network(hub, tmp_path):
    """In a process of its own: the cache's place and the lack of a network are read at the start."""
    script = """if True:
        import datasets, os, pathlib, sys
        from harness.data.fetch_hub import fetch_hub
        hub, cache, out = map(pathlib.Path, sys.argv[1:])
        datasets.load_dataset(str(hub / "fancyzhx/ag_news"))
        [made] = cache.glob("ag_news/default/0.0.0/*/")
        # As it lies there after a download: by the owner, and the commit for the files' hash.
        (cache / "fancyzhx___ag_news/default/0.0.0").mkdir(parents=True)
        os.rename(made, cache / "fancyzhx___ag_news/default/0.0.0/eb185aade064a813bc0b7f42de02595523103ca4")
        fetch_hub("ag-news", out / "ag-news")
    """
    environ = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    arguments = [str(path) for path in (hub, tmp_path / "cache", tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(rows_of(tmp_path / "out", "ag-news")) == 4 * 18


def test_without_a_network_the_command_that_mends_it_is_told(tmp_path, monkeypatch):
    import datasets

    def offline(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError("cannot be reached")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError, match=r"LabHC/bias_in_bios cannot be read from the hub .*cannot be reached") as told:
        fetch_hub("bias-in-bios-2", tmp_path / "x")
    assert str(told.value).endswith(
        "run: hf download LabHC/bias_in_bios --repo-type dataset --local-dir FOLDER/LabHC/bias_in_bios, "
        "then: sae-harness fetch bias-in-bios-2 --from FOLDER"
    )
    assert not (tmp_path / "x").exists()


def test_a_folder_without_the_copy_is_told(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(
        DataError, match=r"holds no copy of codeparrot/github-code: looked for .*--include 'data/train-"
    ):
        fetch_hub("github-code", tmp_path / "out", source=tmp_path / "in")


def test_rows_of_another_form_are_told(hub, tmp_path):
    parquet(tmp_path / "ag_news" / "data" / "train-0.parquet", [{"headline": "a", "label": 1}])
    with pytest.raises(DataError, match=r"Row 0 of fancyzhx/ag_news  ?train has another form .*columns are headline"):
        fetch_hub("ag-news", tmp_path / "out", source=tmp_path)


def test_texts_of_two_classes_and_second_copies_are_left_out():
    news = SETS["ag-news"]
    given = [{"text": f"news {n} {label}", "label": label} for label in range(4) for n in range(3)]
    given += [{"text": "Both", "label": 0}, {"text": "both", "label": 1}, {"text": "news  0 0", "label": 0}]

    def rows(hub: HubSet, configuration: str, split: str):
        return given if split == "train" else [{"text": f"test {label}", "label": label} for label in range(4)]

    found = read_set(news, rows)
    assert sorted(row.text for split, row in found if split == "train") == sorted(row["text"] for row in given[:12])


def test_a_class_without_texts_is_told():
    with pytest.raises(DataError, match="fancyzhx/ag_news has no train text of World: is it the whole data set"):
        read_set(SETS["ag-news"], lambda *_: [{"text": "a", "label": 2}])


def test_a_second_fetch_does_nothing_and_another_form_is_refused(hub, tmp_path, monkeypatch):
    folder = fetch_hub("ag-news", tmp_path / "ag-news", source=hub)
    monkeypatch.setattr(module, "_load", None)
    assert fetch_hub("ag-news", folder) == folder
    index = json.loads((folder / "fetched.json").read_text())
    (folder / "fetched.json").write_text(json.dumps({**index, "reading": 0}))
    with pytest.raises(DataError, match="no complete fetch of ag-news"):
        fetch_hub("ag-news", folder)


def test_unknown_names_are_told(tmp_path):
    assert set(HUB_COLLECTIONS) == {ALL, *SETS, *ATTRIBUTES}
    with pytest.raises(UnknownNameError, match="Did you mean ag-news"):
        fetch_hub("ag-new", tmp_path)
