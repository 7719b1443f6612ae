r"""A Markdown or LaTeX text as sentences, with the annotations and the prose that is left to look at.

Code, addresses, comments and what LaTeX does not print are no prose. Places are kept: a masked text has the length of
the original.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...errors import ConfigError
from .grammar import TAKES_NUMBER, Annotation, Malformed, parse
from .numbers import Written, written

_BODY = r"\{\{(?P<body>[^{}\n\\]+)\}\}"
_MARKDOWN = re.compile(rf"<!--\s*{_BODY}\s*-->|{_BODY.replace('body', 'plain')}")
_LATEX = re.compile(rf"\\claim\{{(?P<body>[^{{}}]+)\}}|{_BODY.replace('body', 'plain')}")

_MARKDOWN_OPENS = re.compile(r"\$\$?[^$]*?\$\$?|(?P<open>\{\{[^\n]{0,60})")
"""What begins as an annotation and is none, but for formulas, whose braces are their own."""
_LATEX_OPENS = re.compile(r"(?P<open>\\claim\b[^\n]{0,60})")
"""In LaTeX `{{` is a group."""

_MARKDOWN_MASKS = (
    re.compile(r"^(?P<f>```+|~~~+).*?(?:^(?P=f)[`~]*\s*$|\Z)", re.M | re.S),
    re.compile(r"(?<!`)(?P<t>`{1,3})(?!`)[^\n]{1,400}?(?:\n[^\n]{1,200}?)?(?<!`)(?P=t)(?!`)"),
    re.compile(r"\A---\n.*?\n---\n", re.S),
)
_LATEX_MASKS = (
    re.compile(r"\A.*?\\begin\{document\}", re.S),
    re.compile(r"(?<!\\)%.*"),
    re.compile(r"\\begin\{(?P<e>verbatim|lstlisting|minted|comment)\*?\}.*?\\end\{(?P=e)\*?\}", re.S),
)
_UNSEEN = (
    re.compile(r"<[a-zA-Z/][^<>\n]{0,400}>"),
    re.compile(r"(?<=\])\([^()\s]{0,1000}\)"),
    re.compile(r"\b(?:https?|ftp)://\S+"),
)
_LATEX_UNSEEN = (
    re.compile(
        r"\\(?:cite\w*|[cC]ref|ref|eqref|autoref|label|url|href|includegraphics|input|include|bibliography\w*|usepackage|"
        r"vspace|hspace|begin|end|pageref|documentclass|setlength|caption\*?(?=\[))\*?(?:\[[^\]]*\])*(?:\{[^{}]*\})?"
    ),
    re.compile(r"\b\d*\.?\d+\\(?:textwidth|linewidth|columnwidth|textheight|baselineskip)"),
    re.compile(r"\b\d*\.?\d+(?:pt|cm|mm|em|ex|in)\b"),
)
_BLOCK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*+]\s|\d+[.)]\s|#|>|\||\\item\b|\\section|\\subsection))")
_END = re.compile(r"[.!?][\"'”’)\]*_]*(?=\s+[\"'“(\[*_$\\]*(?P<next>[^\W_])|\s*\Z)")
_ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|et al|cf|vs|approx|resp|[Ff]igs?|Eq|Sec|Tab|No|ca)|\b[A-Z])\.\Z")
_GOES_ON = re.compile(
    r"(?:\b(?:etc|incl|excl|viz|std|avg|max|min|dev|refs?|chs?|pp?|vol|est|w\.r\.t|a\.k\.a)|\.)\.\Z",
    re.IGNORECASE,
)
"""What ends no sentence where a small letter follows. A sentence may begin with one: methods have no capitals."""
_SPACED = re.compile(r" (?=[.,;:!?)](?:\s|\Z))")
"""What a masked annotation leaves before a mark."""
_RANGE = re.compile(r"[\s}]*(?:–|--|-|to|and|through)[\s{]*\Z")
_GAP = re.compile(r"[\s)\]}$*_~'\"”]*(?:<!--\s*)?\Z")
_PLUS_MINUS = re.compile(r"[\s}$]*(?:±|\+/-|\\pm)[\s{$]*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """An annotation in its place."""

    annotation: Annotation
    start: int
    end: int
    line: int
    source: str
    """As it stands in the text."""
    numbers: tuple[Written, ...] = ()
    """The number before it, or the two of a range, or value and half-width of `v ± h`; empty where it takes none."""
    spread: bool = False
    """Whether the second number is the half-width of the first."""
    id: str = ""
    """Of the claim in the file of bindings; empty for one in the text."""


@dataclass(slots=True, kw_only=True)
class Sentence:
    """A sentence of the text, without markup of annotations."""

    text: str
    start: int
    line: int
    numbers: list[Written] = field(default_factory=list)
    """Places are those of the whole text."""
    bounds: list[Bound] = field(default_factory=list)


def sentences(text: str, *, latex: bool, name: str) -> list[Sentence]:
    """The sentences of a text, with their numbers and annotations.

    An annotation that is none of the forms, or checks a number where none stands, becomes `Malformed`.

    Raises:
        ConfigError: an annotation is not closed, so that it cannot be said what it is.
    """
    code = _masked(text, _LATEX_MASKS if latex else _MARKDOWN_MASKS)
    pattern = _LATEX if latex else _MARKDOWN
    matches = list(pattern.finditer(code))
    prose = _blank(code, [m.span() for m in matches])
    _refuse_unclosed(prose, _LATEX_OPENS if latex else _MARKDOWN_OPENS, name)
    prose = _masked(_without_comments(prose), (*_UNSEEN, *(_LATEX_UNSEEN if latex else ())))
    breaks = [m.start() for m in re.finditer("\n", text)]
    found = [
        Sentence(
            text=_SPACED.sub("", " ".join(prose[a:b].split())),
            start=a,
            line=bisect.bisect_left(breaks, a + _lead(prose[a:b])) + 1,
        )
        for a, b in _spans(prose)
    ]
    starts = [s.start for s in found]
    for number in written(prose):
        home = _at(found, starts, number.start)
        if home is not None:
            home.numbers.append(number)
    for match in matches:
        line = bisect.bisect_left(breaks, match.start()) + 1
        home = _at(found, starts, match.start())
        bound = _bound(match, line, f"{name}:{line}", prose, home)
        if home is None:  # nothing is said before it
            home = Sentence(text="", start=match.start(), line=line)
            found.insert(0, home)
            starts.insert(0, home.start)
        home.bounds.append(bound)
    return [s for s in found if s.text or s.bounds]


def _refuse_unclosed(prose: str, opens: re.Pattern[str], name: str) -> None:
    """Raises ConfigError where an annotation is not closed: it would check nothing, and nobody would be told."""
    for match in opens.finditer(prose):
        if match["open"]:
            line = prose.count("\n", 0, match.start()) + 1
            raise ConfigError(
                f"{name}:{line}: {match['open'].rstrip()!r} begins as an annotation and does not end as one: close it "
                "on the line it begins on, with something in it, or put it in backticks if it is none."
            )


def _bound(match: re.Match[str], line: int, where: str, prose: str, home: Sentence | None) -> Bound:
    body = match["body"] or match["plain"]
    numbers: tuple[Written, ...] = ()
    spread = False
    try:
        annotation = parse(body, where)
    except ConfigError as error:
        annotation = Malformed(reason=str(error).removeprefix(f"{where}: "))
        numbers, _ = _before(prose, match.start(), home)  # it was to check them: they are not reported again
    if isinstance(annotation, TAKES_NUMBER):
        numbers, spread = _before(prose, match.start(), home)
        wanted = 2 if getattr(annotation, "aggregate", "") == "range" else 1
        if not numbers or (wanted == 2 and (len(numbers) < 2 or spread)):
            what = "two numbers such as 0.08–0.24" if wanted == 2 else "a number"
            told = f"It checks what stands before it, and {what} does not stand there."
            annotation, spread = Malformed(reason=told), False
        elif wanted == 1 and not spread:
            numbers = numbers[-1:]
    return Bound(
        annotation=annotation,
        start=match.start(),
        end=match.end(),
        line=line,
        source=match[0],
        numbers=numbers,
        spread=spread,
    )


def _before(prose: str, place: int, sentence: Sentence | None) -> tuple[tuple[Written, ...], bool]:
    """The number that ends before a place, with the one before it where they are a range or value and half-width."""
    numbers = [n for n in (sentence.numbers if sentence else []) if n.end <= place]
    if not numbers or not _GAP.match(prose[numbers[-1].end : place]):
        return (), False
    if len(numbers) > 1:
        between = prose[numbers[-2].end : numbers[-1].start]
        if _PLUS_MINUS.match(between):
            return tuple(numbers[-2:]), True
        if _RANGE.match(between):
            return tuple(numbers[-2:]), False
    return (numbers[-1],), False


def pair(text: str) -> tuple[Written, ...]:
    """The one number, or the two of a range, that a text consists of; empty where it is neither."""
    numbers = tuple(written(text))
    rest = text.strip()
    if len(numbers) == 1 and rest == numbers[0].text:
        return numbers
    if len(numbers) == 2 and _RANGE.match(text[numbers[0].end : numbers[1].start]):
        return numbers
    return ()


def _spans(prose: str) -> Iterator[tuple[int, int]]:
    """(start, end) of sentences: blocks first, then their sentences."""
    edges = [0, *(m.start() for m in _BLOCK.finditer(prose)), len(prose)]
    for begin, end in itertools.pairwise(edges):
        start = begin
        for stop in _END.finditer(prose, begin, end):
            tail = prose[max(start, stop.end() - 12) : stop.end()]
            if _ABBREVIATION.search(tail) or ((stop["next"] or "").islower() and _GOES_ON.search(tail)):
                continue
            yield start, stop.end()
            start = stop.end()
        if prose[start:end].strip():
            yield start, end


def _at(found: list[Sentence], starts: list[int], place: int) -> Sentence | None:
    """The sentence that a place lies in: the last that begins at it or before."""
    after = bisect.bisect_right(starts, place)
    return found[after - 1] if after else None


def _without_comments(text: str) -> str:
    """Blanks for `<!-- … -->`; one that is never closed hides nothing."""
    spans, at = [], 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        spans.append((start, end + 3))
        at = end + 3
    return _blank(text, spans)


def _lead(text: str) -> int:
    return len(text) - len(text.lstrip())


def _masked(text: str, patterns: tuple[re.Pattern[str], ...]) -> str:
    for pattern in patterns:
        text = _blank(text, [m.span() for m in pattern.finditer(text)])
    return text


def _blank(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with spaces in these places; line ends stay."""
    parts, last = [], 0
    for start, end in spans:
        parts += [text[last:start], re.sub(r"[^\n]", " ", text[start:end])]
        last = end
    return "".join([*parts, text[last:]])
