"""Words that make a claim, and words that contradict what is bound."""

from __future__ import annotations

import pytest

from harness.results.claims.words import claim_words, contradiction


def test_claim_words_are_found():
    assert claim_words("It significantly outperforms and is better than TopK.") == (
        "significantly",
        "outperforms",
        "better",
        "than",
    )
    assert claim_words("The text was split by document.") == ()


@pytest.mark.parametrize("sentence", ["The gain is measured.", "temporal_gain and temporal gain", "Gains are shown."])
def test_the_noun_gain_names_a_quantity(sentence):
    assert claim_words(sentence) == ()
    assert contradiction("The gain is lower.", "fvu", -1, "higher") == ""
    assert claim_words("It gained much, with gains over topk.") == ("gained", "gains")


@pytest.mark.parametrize(
    ("sentence", "field", "sign", "better", "told"),
    [
        ("EV is higher.", "ev", -1, "higher", "the sentence says higher, the binding says lower ev"),
        ("EV is higher.", "ev", 1, "higher", ""),
        ("A higher sparsity of 12 against 7.", "core.l0", 1, "none", "the sentence says lower"),
        ("It is sparser.", "l0", 1, "none", "the sentence says lower"),
        (
            "It improves absorption.",
            "absorption",
            1,
            "lower",
            "the sentence says better, and higher absorption is worse",
        ),
        ("It improves absorption.", "absorption", -1, "lower", ""),
        ("It has lower and higher values.", "ev", 1, "higher", ""),
        ("It is not better.", "ev", -1, "higher", ""),
        ("It is worse.", "ev", 1, "higher", "the sentence says worse, and higher ev is better"),
        ("A smaller error, so better.", "mse", -1, "lower", ""),
    ],
)
def test_words_against_the_binding(sentence, field, sign, better, told):
    found = contradiction(sentence, field, sign, better)
    assert (found == "") == (told == "")
    assert told in found
