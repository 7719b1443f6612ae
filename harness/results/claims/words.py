"""Words that make a sentence a claim, and the direction they claim."""

from __future__ import annotations

import re

_GAINS = r"gained|gaining|gains?(?=\s+(?:over|against)\b)"
"""The noun by itself names a quantity, as in `temporal_gain`."""

_CLAIMS = {
    "comparison": (
        r"better|best|worse|worst|outperform\w*|surpass\w*|exceed\w*|superior\w*|inferior\w*|improv\w+|degrad\w+|"
        r"higher|highest|lower|lowest|larger|largest|smaller|smallest|greater|greatest|fewer|fewest|stronger|weaker|"
        r"faster|slower|sparser|denser|than|increas\w+|decreas\w+|reduc(?:e|es|ed|ing|tion|tions)|drops?|"
        rf"dropped|doubl\w+|halv\w+|all variants|{_GAINS}"
    ),
    "significance": (
        r"significan\w+|substantial\w*|considerabl\w+|markedly|dramatic\w*|consistent\w*|robust\w*|reliably|"
        r"state-of-the-art|negligib\w+|always|never|highly"
    ),
    "sameness": r"identical\w*|same|equal\w*|match|matches|matched|comparable|on par|unchanged|virtually|constant",
    "effect": (
        r"because|due to|leads? to|led to|results? in|caus(?:e|es|ed|ing)|prevent\w*|enabl(?:e|es|ed|ing)|"
        r"helps?|helped|persist\w*|preserv\w+|maintain\w*|tuned|ensur\w+|confirm\w*|demonstrat\w+|proves?|proven|"
        r"shows? that|reveal\w*|success\w*|effective\w*|good|poor|excellent|completed|achiev\w+|validat\w+|evaluations?"
    ),
}
_PATTERNS = {kind: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for kind, words in _CLAIMS.items()}

_UP = re.compile(r"\b(?:higher|highest|larger|largest|greater|greatest|increas\w+|exceed\w*|rises?|rose)\b", re.I)
_DOWN = re.compile(r"\b(?:lower|lowest|smaller|smallest|fewer|fewest|decreas\w+|reduc\w+|drops?|dropped|less)\b", re.I)
_GOOD = re.compile(rf"\b(?:better|best|outperform\w*|surpass\w*|superior\w*|improv\w+|success\w*|{_GAINS})\b", re.I)
_BAD = re.compile(r"\b(?:worse|worst|inferior\w*|degrad\w+|deteriorat\w+)\b", re.I)
_SPARSITY = re.compile(r"\b(?:sparsity|sparser)\b", re.I)
_NEGATION = re.compile(r"\b(?:no|not|never|neither|nor|without|cannot|hardly)\b|n't\b", re.I)


def claim_words(sentence: str) -> tuple[str, ...]:
    """The words that make it a claim, in order and each once."""
    found = sorted((m.start(), m[0]) for pattern in _PATTERNS.values() for m in pattern.finditer(sentence))
    return tuple(dict.fromkeys(word.lower() for _, word in found))


def claims_significance(sentence: str) -> bool:
    """Whether it says that a difference is significant."""
    return re.search(r"\bsignificant\w*", sentence, re.I) is not None and _NEGATION.search(sentence) is None


def contradiction(sentence: str, field: str, sign: int, better: str) -> str:
    """Where the sentence's words and the bound relation point to opposite directions: what is wrong; else empty.

    `sign`: of first minus second side as bound. A sentence with a negation, or with words of both directions, is not
    judged. Higher sparsity is a lower L0.
    """
    if not sign or _NEGATION.search(sentence):
        return ""
    up, down = bool(_UP.search(sentence)), bool(_DOWN.search(sentence))
    if field.rpartition(".")[2] == "l0" and _SPARSITY.search(sentence):
        up, down = down, up
        if re.search(r"\bsparser\b", sentence, re.I):
            down = True
    if up != down and not (_GOOD.search(sentence) or _BAD.search(sentence)) and (sign > 0) != up:
        said, bound = ("higher", "lower") if up else ("lower", "higher")
        return f"the sentence says {said}, the binding says {bound} {field}"
    good, bad = bool(_GOOD.search(sentence)), bool(_BAD.search(sentence))
    if good != bad and better in ("higher", "lower"):
        bound_good = (sign > 0) == (better == "higher")
        if bound_good != good:
            said, bound = ("better", "worse") if good else ("worse", "better")
            return f"the sentence says {said}, and {'higher' if sign > 0 else 'lower'} {field} is {bound}"
    return ""
