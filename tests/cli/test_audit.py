"""`sae-harness audit`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import cli

ROOT = Path(__file__).parents[2]
GEMMA = ROOT / "tests" / "fixtures" / "gemma_records"
TEMPORAL = str(GEMMA / "temporal")
TINY = str(ROOT / "baselines" / "tiny")
RULES = ROOT / "tests" / "fixtures" / "distributions" / "audit_rules"


@pytest.fixture(autouse=True)
def _only_ours(monkeypatch):
    monkeypatch.setenv("SAE_HARNESS_PLUGINS", "sae-harness")


def invoke(*args: str):
    return CliRunner().invoke(cli, ["audit", *args], prog_name="sae-harness")


def test_sound_records_are_one_line_and_exit_0():
    done = invoke(TINY)
    assert (done.exit_code, done.stderr) == (0, "")
    n = len([p for p in Path(TINY).rglob("*.json") if p.name not in ("manifest.json", "reliability.json")])
    assert done.stdout == f"{n} records: no blockers, no warnings.\n"


def test_blockers_are_a_table_with_what_to_do_and_exit_1():
    done = invoke(TEMPORAL)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["severity", "rule", "record", "evaluation", "field", "evidence"]
    assert any(line.startswith("blocker   F08   run_9.json") and "7468.884766" in line for line in lines)
    assert any(line.startswith("F08: Copied run") and "Mend:" in line for line in lines)
    assert done.stderr.startswith("12 records: ")


def test_warnings_alone_exit_0(tmp_path):
    record = json.loads((GEMMA / "hierarchical_unlearning" / "baseline_topk.json").read_text())
    (tmp_path / "topk.json").write_text(json.dumps(record))
    done = invoke(str(tmp_path))
    assert done.exit_code == 0
    assert done.stdout.splitlines()[1].startswith("warning   F29")
    assert done.stderr == "1 record: no blockers, 1 warning.\n"


def test_json():
    done = invoke(TEMPORAL, "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, done.stderr) == (1, "")
    assert found["records"] == 12
    assert found["verdicts"]["run_9.json"]["core"] == {"status": "tainted", "rules": ["F08"]}


def test_sarif_points_to_the_files():
    done = invoke(TEMPORAL, "--format", "sarif")
    [run] = json.loads(done.stdout)["runs"]
    uris = {r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in run["results"]}
    assert f"{TEMPORAL}/run_9.json" in uris


def test_md_is_a_table():
    lines = invoke(TEMPORAL, "--format", "md").stdout.splitlines()
    assert lines[0].startswith("| severity")
    assert lines[-1].startswith("- F")


def test_verdicts():
    done = invoke(str(GEMMA), "--verdicts", "--tolerances", str(GEMMA / "facts.yaml"))
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["temporal/run_4.json", "core", "valid", "F22", "F25", "F26"] in rows
    assert ["topk_orthogonality/run_0.json", "sparse_probing", "tainted", "F13", "F14"] in rows


def test_tolerances_change_what_is_found(tmp_path):
    file = tmp_path / "t.yaml"
    file.write_text("min_letters: 8")
    rules = {f["rule"] for f in json.loads(invoke(TEMPORAL, "--json", "--tolerances", str(file)).stdout)["findings"]}
    assert "F02" not in rules


def test_a_hostile_file_is_a_finding_beside_the_others(tmp_path):
    (tmp_path / "bad.json").write_text("[" * 100_000)
    done = invoke(str(tmp_path))
    assert done.exit_code == 1
    assert done.stdout.splitlines()[1].split()[:3] == ["blocker", "R01", "bad.json"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "No PATH is given"),
        (("nothing-there",), "No file or folder nothing-there"),
        ((TINY, "--tolerances", "nothing-there"), "cannot be read"),
        (("--explain", "F99"), "Unknown audit rule 'F99'"),
        ((TINY, "--format", "html"), "Invalid value for '--format'"),
    ],
)
def test_a_users_error_exits_2(args, message):
    done = invoke(*args)
    assert done.exit_code == 2
    assert message in done.stderr


def test_an_empty_folder_is_a_users_error(tmp_path):
    done = invoke(str(tmp_path))
    assert (done.exit_code, done.stdout) == (2, "")
    assert "There is no JSON file" in done.stderr


def test_explain_a_rule():
    done = invoke("--explain", "f03")
    assert done.exit_code == 0
    assert done.stdout.startswith("F03 (blocker, identity): Spliced")
    assert "Tolerance loss_ratio_low: 0.7" in done.stdout


def test_explain_all_lists_every_rule():
    lines = invoke("--explain", "all").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["R01", "R02", *(f"F{i:02}" for i in range(1, 51))]


def test_a_plugins_rule_is_applied(monkeypatch, tmp_path):
    monkeypatch.setenv("SAE_HARNESS_PLUGINS", "sae-harness,fixture-audit-rules")
    monkeypatch.syspath_prepend(RULES)
    done = invoke(TINY, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert {f["rule"] for f in found["findings"]} == {"odd_seed"}
    assert "odd_seed" in invoke("--explain", "odd_seed").stdout
    for name in [name for name in sys.modules if name.startswith("fixture_audit_rules")]:
        del sys.modules[name]


def test_no_rule_needs_torch():
    script = (
        "import sys\nfrom harness.cli.main import cli\n"
        f"cli(['audit', {TEMPORAL!r}, '--json'], standalone_mode=False)\n"
        "heavy = ('torch', 'transformers', 'scipy', 'sklearn', 'datasets')\n"
        "print([m for m in heavy if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1] == "[]"
