"""Numbers as they are written: what they mean, how far they are rounded, and which of them are no measurements."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from dataclasses import dataclass

_NUMBER = re.compile(
    r"(?=[-+−]?\.?\d)(?P<sign>[-+−]?)(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?P<fraction>\.\d+)?"
    r"(?P<exponent>[eE][-+−]?\d+(?!\w)|\s?(?:×|\\times)\s?10\^?\{?[-−]?\d+\}?)?"
    r"(?P<unit>\s?\\?%|\s?[kMG](?![\w%]))?"
)
_WORDS = (
    *("three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
WORDS = {word: float(i) for i, word in enumerate(_WORDS, 3)} | {"dozen": 12.0, "hundred": 100.0}
"""Numbers in words; below three they are more often style than claim."""
_WORD = re.compile(rf"\b(?:{'|'.join(WORDS)})\b(?!-)", re.IGNORECASE)

_REFERENCE = re.compile(
    r"(?:\b(?:figs?\.?|figures?|tables?|tab\.|sections?|sec\.|eqs?\.?|equations?|appendix|algorithm|chapter|runs?|"
    r"experiment|layers?|version|issue|notebook|step|pages?|lines?|note|seed)|§)[\s~]*"
    r"\d+(?:\.\d+)*(?:\s*(?:,|-|–|and|to|or)\s*\d+(?!\.?\d*\s*%))*",
    re.IGNORECASE,
)
_NOT_MEASURED = (
    _REFERENCE,
    re.compile(r"^\s*(?:[-*+]\s+)?\d+[.)]\s", re.M),  # list items
    re.compile(r"^#+\s*\d+(?:\.\d+)*\.?\s", re.M),  # numbered headings
    re.compile(r"\[\d+(?:\s*[,–-]\s*\d+)*\](?!\()"),  # citations
    re.compile(r"\b(?:19|20)\d\d-\d\d-\d\d\b"),
    re.compile(r"(?:\(|et al\.?,?\s*\(?|\bin\s|[A-Z][a-z]+\s)(?:19|20)\d\d[a-z]?\b(?=[\s).,;:]|$)"),
    re.compile(r"\barXiv:\S+", re.IGNORECASE),
    re.compile(r"\b9\d(?:\.\d)?\s?\\?%(?=\s+(?:confidence|interval|CI\b|level))"),
)
_SCALES = {"%": 0.01, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A number in a text."""

    text: str
    start: int
    end: int
    value: float
    step: float
    """Half of it is how far the true value may lie off: 0.01 for `0.79`, 0.001 for `79.0 %`."""

    def agrees(self, value: float) -> bool:
        """Whether the value rounds to what is written."""
        return abs(value - self.value) <= 0.5 * self.step * (1 + 1e-9) + 1e-12 * abs(self.value)

    @property
    def digits(self) -> int:
        """Significant digits."""
        mantissa = re.split(r"[eE×\\%kMG]", self.text)[0]
        return len(re.sub(r"\D", "", mantissa).lstrip("0"))


def written(text: str) -> Iterator[Written]:
    """The numbers in a text, in order: measured ones alone, not those of references, names and lists."""
    left_out = _merged([match.span() for pattern in _NOT_MEASURED for match in pattern.finditer(text)])
    ends = [end for _, end in left_out]
    for match in _NUMBER.finditer(text):
        start, end = _start(text, match), match.end()
        if start is None or _in_name(text, match):
            continue
        if any(_is_inside(left_out, ends, place) for place in (match.start("sign"), _digits_at(match))):
            continue
        yield _read(match, text[start:end], start, end)
    for match in _WORD.finditer(text):
        value = WORDS[match[0].lower()]
        yield Written(text=match[0], start=match.start(), end=match.end(), value=value, step=1.0)


def _is_inside(spans: list[tuple[int, int]], ends: list[int], place: int) -> bool:
    after = bisect.bisect_right(ends, place)
    return after < len(spans) and spans[after][0] <= place


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans in order, those that overlap as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def one(text: str) -> Written | None:
    """The number a text consists of; None where it is none."""
    found = list(written(text.strip()))
    return found[0] if len(found) == 1 and found[0].text == text.strip() else None


def _digits_at(match: re.Match[str]) -> int:
    return match.start("whole") if match["whole"] is not None else match.start("fraction")


def _start(text: str, match: re.Match[str]) -> int | None:
    """Where the number begins, without a sign that is a dash between two; None inside a name such as `L0`."""
    first = _digits_at(match)
    before = text[max(0, first - 2) : first]
    if match["sign"]:
        behind = before[-2:-1]
        if behind.isalpha() or behind in ("_", "/"):
            return None  # gemma-2, top-1
        return first if behind.isdigit() or behind in ("%", "}") else match.start("sign")
    if before and (before[-1].isalpha() or before[-1] in "_@/\\^."):
        return None
    return first


def _in_name(text: str, match: re.Match[str]) -> bool:
    """Whether letters follow at once that are no unit: 2b, 65k-wide, 0.5\\textwidth."""
    rest = text[match.end() : match.end() + 40]
    if rest[:1] == "\\" and rest[1:2].isalpha() and not rest.startswith(("\\%", "\\pm", "\\times", "\\,", "\\cl")):
        return True
    if rest[:1] == "-" and rest[1:2].isalpha():
        return True
    if not rest[:1].isalpha() and rest[:1] != "_":
        return False
    unit = re.match(r"[A-Za-z_]\w*", rest)
    return unit is None or unit[0] not in ("x", "s", "ms", "h", "min", "GB", "MB", "GiB", "MiB")


def _read(match: re.Match[str], text: str, start: int, end: int) -> Written:
    whole, fraction = (match["whole"] or "0").replace(",", ""), match["fraction"] or ""
    value, decimals = float(whole + fraction), max(0, len(fraction) - 1)
    scale = _SCALES.get((match["unit"] or "").strip(" \t\n\\"), 1.0)
    if match["exponent"]:
        digits = re.findall(r"[-+−]?\d+", match["exponent"].replace("10^", "^").removeprefix("e").removeprefix("E"))
        scale *= 10.0 ** int(digits[-1].replace("−", "-"))
    sign = -1.0 if text[:1] in ("-", "−") else 1.0
    return Written(text=text, start=start, end=end, value=sign * value * scale, step=10.0**-decimals * scale)
