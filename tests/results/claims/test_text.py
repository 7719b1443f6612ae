"""Sentences of Markdown and LaTeX, and where their annotations belong."""

from __future__ import annotations

import pytest

from harness.errors import ConfigError
from harness.results.claims.grammar import Check, Compare, Malformed
from harness.results.claims.text import sentences


def markdown(text):
    return sentences(text, latex=False, name="t.md")


def latex(text):
    return sentences(text, latex=True, name="t.tex")


def test_an_annotation_belongs_to_its_sentence_and_takes_the_number_before_it():
    first, second = markdown("EV is 0.79 {{= topk/ev}} at best. It is 0.5 {{= relu/ev}} else.")
    assert first.text == "EV is 0.79 at best."
    assert [n.text for n in first.bounds[0].numbers] == ["0.79"]
    assert [n.text for n in second.bounds[0].numbers] == ["0.5"]
    assert isinstance(second.bounds[0].annotation, Check)


def test_a_range_and_a_half_width_are_two_numbers():
    [found] = markdown("It is 0.08–0.24 {{= range r/*/ev}} or 0.79 ± 0.02 {{= topk/ev}}.")
    spread, half = found.bounds
    assert [n.text for n in spread.numbers] == ["0.08", "0.24"]
    assert ([n.text for n in half.numbers], half.spread) == (["0.79", "0.02"], True)


def test_abbreviations_and_decimals_end_no_sentence():
    found = markdown("As Gao et al. 2024 and e.g. Fig. 3 say, it is 0.5. Next.")
    assert [s.text for s in found] == ["As Gao et al. 2024 and e.g. Fig. 3 say, it is 0.5.", "Next."]


def test_a_sentence_may_begin_with_a_small_letter():
    found = markdown("It is 0.5. topk is less.\nrelu, i.e. it, incl. bias etc. and more... and so on, is more.")
    assert [s.text for s in found] == [
        "It is 0.5.",
        "topk is less.",
        "relu, i.e. it, incl. bias etc. and more... and so on, is more.",
    ]
    assert [s.line for s in found] == [1, 1, 2]


def test_list_items_rows_and_paragraphs_are_blocks():
    found = markdown("- one is 0.5\n- other is 0.6\n\n| a | 0.7 |\n| b | 0.8 |\n")
    assert [[n.text for n in s.numbers] for s in found] == [["0.5"], ["0.6"], ["0.7"], ["0.8"]]
    assert [s.line for s in found] == [1, 2, 4, 5]


def test_code_addresses_and_comments_are_no_prose():
    text = "`k = 0.5 {{x}}` and [it](a/0.7) at https://x.org/0.9 <!-- 0.8 -->\n\n```\n0.1 {{y}}\n```\nend 0.2"
    assert [n.text for s in markdown(text) for n in s.numbers] == ["0.2"]


def test_in_markdown_an_annotation_may_stand_in_a_comment():
    [found] = markdown("EV is 0.79 <!-- {{= topk/ev}} --> here.")
    assert [n.text for n in found.bounds[0].numbers] == ["0.79"]


def test_latex_groups_macros_and_what_is_not_printed():
    text = (
        r"\documentclass[11pt]{article}\newcommand{\x}{0.1}\begin{document}"
        "\n% 0.2 of a comment\nEV is $0.79$ \\claim{= topk/ev}, {{\\bf bold}} at 15\\% {{= relu/ev}}"
        "\\cite{a2024} and \\includegraphics[width=0.5\\textwidth]{f3}.\n\n"
        r"\claim{a > b : ev} It is higher." + "\n"
    )
    first, second = latex(text)
    assert [n.text for n in first.numbers] == ["0.79", r"15\%"]
    assert [[n.text for n in b.numbers] for b in first.bounds] == [["0.79"], [r"15\%"]]
    assert isinstance(second.bounds[0].annotation, Compare)


@pytest.mark.parametrize("text", ["EV {{= topk/ev}}.", "0.5 is what EV is {{= topk/ev}}.", "0.5 {{= range topk/ev}}"])
def test_a_check_without_its_number_is_none(text):
    [bound] = markdown(f"Head.\n{text}")[-1].bounds
    assert isinstance(bound.annotation, Malformed)
    assert "checks what stands before it" in bound.annotation.reason
    assert bound.line == 2


def test_the_number_before_an_annotation_that_is_none_counts_as_its_own():
    [found] = markdown("EV is 0.79 {{= ev}} here.")
    assert isinstance(found.bounds[0].annotation, Malformed)
    assert found.bounds[0].annotation.reason.startswith("'ev' is no reference")
    assert found.bounds[0].numbers == tuple(found.numbers)


@pytest.mark.parametrize(
    "text",
    [
        "EV is {{topk/ev and more.",
        "EV is {{topk/\nev}} here.",
        "EV is {{}} here.",
        "0.5 {{= topk/ev}, and more.",
        "a {{topk/ev}} and {{relu/ev",
    ],
)
def test_an_annotation_that_is_not_closed_is_refused_with_the_line(text):
    """It would check nothing, and nobody would be told."""
    with pytest.raises(ConfigError, match=r"t\.md:3: '\{\{.*' begins as an annotation and does not end as one"):
        markdown(f"Head.\n\n{text}")


def test_in_latex_a_claim_must_be_closed_and_groups_need_not():
    with pytest.raises(ConfigError, match="begins as an annotation"):
        latex("\\begin{document}\nEV is 0.7 \\claim{= topk/ev")
    assert latex("\\begin{document}\n{{\\bf EV} is} \\claims{0.7}.")


@pytest.mark.parametrize("text", ["A norm $x_{{a}b}$ here.", "Code `{{x` here.", "```\n{{ x\n```\nEnd."])
def test_braces_of_formulas_and_code_are_no_annotations(text):
    assert all(s.bounds == [] for s in markdown(text))
