"""SHA256SUMS over the baselines, and who signed it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess

import pytest

from harness.errors import BaselineError
from harness.results.signature import SIGNATURE, SUMS, check_signature, sign, sums_problems, write_sums


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "baselines"
    for name, text in {"README.md": "read", "tiny/topk/a.json": "{}", "tiny/b.json": "[]", ".hidden": "x"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def keys(tmp_path):
    """A key of ours and one of a stranger, and a file that allows ours."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    for name in ("ours", "stranger"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True)
    kind, key, _ = (tmp_path / "ours.pub").read_text().split()
    (tmp_path / "signers").write_text(f"maintainer@example.org {kind} {key}\n")
    return tmp_path


def test_the_sums_are_those_of_sha256sum_sorted_and_relative(root):
    assert write_sums(root) == 3
    expected = {"README.md": "read", "tiny/b.json": "[]", "tiny/topk/a.json": "{}"}
    lines = [f"{hashlib.sha256(text.encode()).hexdigest()}  {name}" for name, text in expected.items()]
    assert (root / SUMS).read_text().splitlines() == lines
    assert sums_problems(root) == []


def test_no_sums_are_no_problem(root):
    assert sums_problems(root) == []


def test_what_is_changed_missing_or_added_since_is_found(root):
    write_sums(root)
    (root / "README.md").write_text("wrote")
    (root / "tiny/b.json").unlink()
    (root / "tiny/c.json").write_text("1")
    missing, changed, added = sums_problems(root)
    assert missing.startswith("tiny/b.json: in SHA256SUMS, not there")
    assert changed.startswith("README.md: is not as SHA256SUMS says")
    assert added.startswith("tiny/c.json: not in SHA256SUMS")


@pytest.mark.parametrize("line", ["nonsense", "ab  README.md", f"{'a' * 64}  x\n{'b' * 64}  x"])
def test_a_malformed_line_is_told(root, line):
    (root / SUMS).write_text(line + "\n")
    [problem] = sums_problems(root)
    assert "malformed line" in problem


def test_sums_that_are_no_text_are_written_anew(root):
    (root / SUMS).write_bytes(b"\xff\xff")
    assert "cannot be read" in sums_problems(root)[0]
    write_sums(root)
    assert sums_problems(root) == []


def test_nothing_to_sign_and_links_are_refused(root, tmp_path):
    with pytest.raises(BaselineError, match="nothing to sign"):
        write_sums(tmp_path / "elsewhere")
    (root / "link.json").symlink_to(root / "README.md")
    with pytest.raises(BaselineError, match="is a link"):
        write_sums(root)


def test_a_signature_tells_who_signed(root, keys):
    write_sums(root)
    sign(root, keys / "ours")
    assert check_signature(root, keys / "signers") == "maintainer@example.org"


def test_a_stranger_and_other_content_are_refused(root, keys):
    write_sums(root)
    sign(root, keys / "stranger")
    with pytest.raises(BaselineError, match="none of the signers"):
        check_signature(root, keys / "signers")
    sign(root, keys / "ours")
    with (root / SUMS).open("a") as file:
        file.write(f"{'0' * 64}  more\n")
    with pytest.raises(BaselineError, match="does not sign SHA256SUMS as it is"):
        check_signature(root, keys / "signers")


def test_new_sums_take_the_old_signature_away_and_equal_ones_keep_it(root, keys):
    write_sums(root)
    sign(root, keys / "ours")
    write_sums(root)
    assert (root / SIGNATURE).exists()
    (root / "README.md").write_text("other")
    write_sums(root)
    assert not (root / SIGNATURE).exists()
    with pytest.raises(BaselineError, match=r"has no SHA256SUMS\.sig"):
        check_signature(root, keys / "signers")


def test_a_missing_key_and_a_missing_ssh_keygen_are_told(root, tmp_path, monkeypatch):
    write_sums(root)
    with pytest.raises(BaselineError, match="No ssh key"):
        sign(root, tmp_path / "none")
    (tmp_path / "key").write_text("key")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BaselineError, match="ssh-keygen is not installed"):
        sign(root, tmp_path / "key")


def test_a_file_that_is_no_key_gives_what_ssh_keygen_says(root, keys):
    write_sums(root)
    with pytest.raises(BaselineError, match="does not sign with"):
        sign(root, keys / "signers")
