"""`claims`: a text against records, on the command line."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.claims import command as claims
from harness.cli.main import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture
def text(tmp_path):
    def write(content, name="paper.md"):
        path = tmp_path / name
        path.write_text(content)
        return str(path)

    return write


def test_a_supported_text_passes_and_a_refuted_one_exits_1(micro, text):
    rows = micro.json("compare", "topk", "--suite", "micro", "--at-l0", "4")["rows"]
    value = next(r["baseline_mean"] for r in rows if r["metric"] == "fvu")
    good = text(f"FVU is {value:.4f} {{{{= micro/topk/l0=4/fvu}}}}.")
    assert "0 refuted, 0 unresolved, 0 unsupported, 0 unbound, 1 supported" in micro.ok("claims", good)
    bad = micro.invoke("claims", text("FVU is 7.0 {{= micro/topk/l0=4/fvu}}."), "--records", str(micro.baselines))
    assert bad.exit_code == 1
    assert "line 1: REFUTED: 7.0 {{= micro/topk/l0=4/fvu}}" in bad.stdout


def test_a_comparison_rests_on_the_verdict_of_compare(micro, text):
    out = micro.ok("claims", text("It is better {{topk better than random : fvu}}."), "--all")
    assert "SUPPORTED" in out
    assert "better: the difference is -" in out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("FVU is 0.912 {{= nobody/l0=4/fvu}}.", "UNRESOLVED: 0.912 {{= nobody/l0=4/fvu}}\n  no record nobody"),
        ("FVU is 0.912 {{= topk/l0=4/fvuu}}.", "has no fvuu; near it: fvu"),
        ("FVU is {{topk/fvu}}.", "add l0="),
        ("Value {{= micro/topk/l0=4/fvu}}.", "checks what stands before it"),
        ("Value {{topk}}.", "is no reference"),
    ],
)
def test_a_reference_that_cannot_be_resolved_exits_1_and_the_rest_is_checked(micro, text, content, told):
    done = micro.invoke("claims", text(f"{content}\n\nFVU is 7.0 {{{{= micro/topk/l0=4/fvu}}}}."))
    assert done.exit_code == 1
    assert told in done.stdout
    assert "line 3: REFUTED" in done.stdout
    assert micro.invoke("claims", text(content)).exit_code == 1


def test_what_the_records_do_not_say_exits_0_unless_strict(micro, text):
    path = text("One seed {{micro/topk/l0=4/seed=0 better than micro/random : fvu}}.")
    assert "1 unsupported" in micro.ok("claims", path)
    assert micro.invoke("claims", path, "--strict").exit_code == 1


def test_the_examples_of_the_help_hold_on_the_default_records_as_they_are_typed(text, tmp_path):
    """Of several suites: a method's name alone would be ambiguous there."""
    methods = ("tiny/topk", "tiny/temporal", "tiny/relu", "tiny/random", "smollm2/topk")
    records = [part for method in methods for part in ("--records", str(ROOT / "baselines" / method))]
    told = inspect.cleandoc(claims.help or "")
    shown = [line.strip().split("  ")[0] for line in told.splitlines() if line.startswith("  ") and "{{" in line]
    assert len(shown) >= 10
    sentences = "\n\n".join(f"Here {example} it is." for example in shown)
    bindings = told.partition("  claims:\n")[2].partition("\n\n")[0]
    (tmp_path / "bindings.yaml").write_text(f"claims:\n{bindings}\n")
    options = [*records, "--bindings", str(tmp_path / "bindings.yaml"), "--strict"]
    content = f"{sentences}\n\nIt reaches an explained variance of 0.92."
    done = CliRunner().invoke(cli, ["claims", text(content), *options], prog_name="sae-harness")
    assert done.exit_code == 0, done.output


def test_strict_exits_1_on_what_is_not_bound(micro, text):
    path = text("It is much better.")
    assert "1 unbound" in micro.ok("claims", path)
    assert micro.invoke("claims", path, "--strict").exit_code == 1


def test_fill_writes_the_text_with_values(micro, text, tmp_path):
    out = tmp_path / "out.md"
    micro.ok("claims", text("L0 is {{micro/topk/l0=4/l0:.0f}} here."), "--fill", str(out))
    assert out.read_text() == "L0 is 4 here."


def test_a_value_that_cannot_be_filled_writes_nothing(micro, text, tmp_path):
    out = tmp_path / "out.md"
    done = micro.invoke("claims", text("L0 is {{micro/nobody/l0}} here."), "--fill", str(out))
    assert done.exit_code == 1
    assert "annotations that cannot be filled in or read: 1." in done.stderr
    assert not out.exists()
    assert micro.invoke("claims", text("L0 is {{nonsense}}."), "--fill", str(out)).exit_code == 1
    assert not out.exists()


def test_json(micro, text):
    done = micro.invoke("claims", text("FVU is 7.0 {{= topk/l0=4/fvu}} in tex.", "paper.tex"), "--json")
    data = json.loads(done.stdout)
    assert (data["kind"], data["counts"]["refuted"]) == ("sae-harness/claims", 1)
    assert data["outcomes"][0]["claim"] == "7.0 {{= topk/l0=4/fvu}}"


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        ("Value {{topk/fvu.", (), "begins as an annotation and does not end as one"),
        ("Value.", ("--bindings", "absent.yaml"), "cannot be read"),
        ("Value.", ("--records", "absent"), "No file or folder absent"),
        ("Value.", ("--fill", "SAME"), "would replace the annotated text itself"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(micro, text, content, options, told):
    path = text(content)
    assert told in micro.error("claims", path, *(path if o == "SAME" else o for o in options))


def test_a_missing_file_is_told(micro):
    assert "cannot be read" in micro.error("claims", "absent.md")
