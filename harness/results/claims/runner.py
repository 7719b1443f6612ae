"""A text held to records: every number, every comparison, and what is bound to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import ConfigError
from .bindings import Claim
from .checks import check_assertion, check_bound, check_number, check_same
from .comparisons import Terms, check_comparison
from .fill import filled
from .grammar import Annotation, Assertion, Check, Compare, Fill, Ignore, Malformed, Same
from .grammar import Bound as NumberBound
from .library import Library
from .numbers import Written
from .outcome import Kind, Outcome, Ruling, together
from .text import Bound, Sentence, sentences
from .words import claim_words, contradiction


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of a text's claims."""

    outcomes: tuple[Outcome, ...]
    """In the order of the text."""
    ignored: int
    """Sentences that are said to claim nothing of a record."""
    filled: str
    """The text with values in and bindings out; a value that cannot be had leaves its annotation."""

    def count(self, status: str) -> int:
        """How many outcomes are of a status."""
        return sum(o.status == status for o in self.outcomes)


_BINDS_WORDS = (Compare, Same, NumberBound, Assertion, Malformed)
"""A number that is right does not make a sentence right that says more of it."""


def check_text(
    text: str, library: Library, terms: Terms, *, name: str, latex: bool = False, bindings: Sequence[Claim] = ()
) -> Report:
    """Hold a text to records. `name` names it in errors.

    Raises:
        ConfigError: an annotation is not closed, or a sentence of the bindings is not in the text.
    """
    found = sentences(text, latex=latex, name=name)
    _bind(found, bindings)
    outcomes: list[Outcome] = []
    values: dict[tuple[int, int], str] = {}
    for sentence in found:
        for bound in sentence.bounds:
            if not isinstance(bound.annotation, Ignore):
                outcomes.append(_outcome(library, terms, sentence, bound, values))
        if not any(isinstance(b.annotation, Ignore) for b in sentence.bounds):
            outcomes += _unbound(library, sentence)
    ignored = sum(any(isinstance(b.annotation, Ignore) for b in s.bounds) for s in found)
    return Report(outcomes=tuple(outcomes), ignored=ignored, filled=_rewritten(text, found, values))


def _bind(found: Sequence[Sentence], bindings: Sequence[Claim]) -> None:
    """Put the checks of a file of bindings to the sentences they are for."""
    for claim in bindings:
        homes = [s for s in found if claim.sentence in s.text]
        if not homes:
            raise ConfigError(
                f"The text has no sentence with {claim.sentence!r} (claim {claim.id}): the text or its bindings were "
                "changed; bring them together again."
            )
        home = homes[0]
        for check in claim.checks:
            taken = {n.start for b in home.bounds for n in b.numbers}
            numbers = tuple(_in_sentence(home, number, claim.id, taken) for number in check.numbers)
            bound = Bound(
                annotation=check.annotation,
                start=home.start,
                end=home.start,
                line=home.line,
                source=check.source,
                numbers=numbers,
                id=claim.id,
            )
            home.bounds.append(bound)


def _in_sentence(sentence: Sentence, number: Written, claim: str, taken: set[int]) -> Written:
    """The number in its sentence; of equal ones the first that no check has taken yet."""
    alike = [own for own in sentence.numbers if (own.value, own.step) == (number.value, number.step)]
    if alike:
        return next((own for own in alike if own.start not in taken), alike[0])
    raise ConfigError(f"Claim {claim}: the number {number.text} is not in its sentence {sentence.text!r:.120}.")


def _outcome(
    library: Library, terms: Terms, sentence: Sentence, bound: Bound, values: dict[tuple[int, int], str]
) -> Outcome:
    annotation = bound.annotation
    numbers = " ".join(n.text for n in bound.numbers)
    found: list[Ruling] = []
    if isinstance(annotation, Malformed):
        found.append(Ruling(status="unresolved", reason=annotation.reason))
    elif isinstance(annotation, Check):
        found.append(check_number(library, annotation, bound.numbers, spread=bound.spread))
    elif isinstance(annotation, NumberBound):
        found.append(check_bound(library, annotation, bound.numbers[-1]))
    elif isinstance(annotation, Assertion):
        found.append(check_assertion(library, annotation))
    elif isinstance(annotation, Same):
        found.append(check_same(library, annotation))
    elif isinstance(annotation, Fill) or (isinstance(annotation, Compare) and annotation.relation == "vs"):
        value = filled(library, terms, annotation)
        if isinstance(value, Ruling):
            found.append(value)
        else:
            values[bound.start, bound.end] = value
            found.append(Ruling(status="supported", reason=f"filled in: {value}"))
    elif isinstance(annotation, Compare):
        ruling, sign, better = check_comparison(library, annotation, terms)
        found.append(ruling)
        said = contradiction(sentence.text, annotation.field, sign, better)
        if said:
            found.append(Ruling(status="refuted", reason=said))
    ruling = together(found)
    return Outcome(
        status=ruling.status,
        line=bound.line,
        claim=bound.source if bound.id else f"{numbers} {bound.source}".strip(),
        reason=ruling.reason,
        kind=_kind(annotation),
        sentence=sentence.text,
        id=bound.id,
    )


def _kind(annotation: Annotation) -> Kind:
    if isinstance(annotation, Fill) or (isinstance(annotation, Compare) and annotation.relation == "vs"):
        return "fill"
    if isinstance(annotation, Malformed):
        return "annotation"
    return "comparison" if isinstance(annotation, (Compare, Same, Assertion)) else "number"


def _unbound(library: Library, sentence: Sentence) -> list[Outcome]:
    """Numbers that no binding checks, and words of a claim without one of a comparison."""
    taken = {(n.start, n.end) for b in sentence.bounds for n in b.numbers}
    blank = Outcome(status="unbound", line=sentence.line, claim="", reason="", kind="number", sentence=sentence.text)
    found = []
    for number in sentence.numbers:
        if (number.start, number.end) not in taken:
            places = library.where(number.agrees) if number.digits >= 3 else []
            hint = f"; it could be {' or '.join(places)}" if places else ""
            found.append(replace(blank, claim=number.text, reason=f"a number bound to no record{hint}"))
    words = claim_words(sentence.text)
    if words and not any(isinstance(b.annotation, _BINDS_WORDS) for b in sentence.bounds):
        found.append(replace(blank, kind="words", claim=", ".join(words), reason="a claim bound to no records"))
    return found


def _rewritten(text: str, found: Sequence[Sentence], values: dict[tuple[int, int], str]) -> str:
    """The text with fills replaced and all other annotations taken out, with the blank before them."""
    parts, last = [], 0
    for bound in sorted((b for s in found for b in s.bounds if b.end > b.start), key=lambda b: b.start):
        value = values.get((bound.start, bound.end))
        before = text[last : bound.start]
        if value is None and _kind(bound.annotation) in ("fill", "annotation"):
            parts.append(text[last : bound.end])
        elif value is None:
            closes = text[bound.end : bound.end + 1] in tuple(".,;:!?)")
            parts.append(before.rstrip() if closes else before.rstrip(" "))
        else:
            parts += [before, value]
        last = bound.end
    return "".join([*parts, text[last:]])
