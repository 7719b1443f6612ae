"""A signature over the stored baselines: the sha256 of every file in `SHA256SUMS`, signed with an ssh key if wished.

`SHA256SUMS` is as `sha256sum` writes and checks it. `SHA256SUMS.sig` is as `ssh-keygen -Y sign` makes it, in the
namespace `sae-harness`, and is checked against a file of allowed signers (see ssh-keygen(1), ALLOWED SIGNERS).
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import BaselineError
from .record import write_atomically

SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"
NAMESPACE = "sae-harness"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)\Z")
_SECONDS = 120
"""For ssh-keygen, which may ask for a passphrase."""


def write_sums(root: Path) -> int:
    """Write `ROOT/SHA256SUMS` over all files below, sorted, with `/` between folders; hidden files are left out.

    An old signature is removed where the sums have changed: it would be of other files.

    Returns:
        The number of files.

    Raises:
        BaselineError: there are none, one is a link or cannot be read, or a name has a line break.
        RecordError: it cannot be written.
    """
    sums = _sums_of(root)
    if not sums:
        raise BaselineError(f"There is nothing to sign in {root}: build baselines first, or name their folder.")
    text = "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items())
    path = root / SUMS
    if not path.is_file() or path.read_bytes() != text.encode():
        (root / SIGNATURE).unlink(missing_ok=True)
        write_atomically(path, text)
    return len(sums)


def sums_problems(root: Path) -> list[str]:
    """Files that are missing, changed or not listed; none where there is no `SHA256SUMS`."""
    path = root / SUMS
    if not path.is_file():
        return [f"{SIGNATURE} is there without {SUMS}: sign again"] if (root / SIGNATURE).exists() else []
    try:
        listed = _listed(path.read_text(encoding="utf-8"))
        found = _sums_of(root)
    except (OSError, UnicodeDecodeError) as error:
        return [f"{SUMS} cannot be read: {error}"]
    except BaselineError as error:
        return [str(error)]
    again = "restore it from version control, or sign again: sae-harness baselines sign"
    missing = [f"{name}: in {SUMS}, not there: {again}" for name in listed if name not in found]
    changed = [f"{n}: is not as {SUMS} says: {again}" for n in listed if n in found and found[n] != listed[n]]
    return missing + changed + [f"{name}: not in {SUMS}: {again}" for name in found if name not in listed]


def sign(root: Path, key: Path) -> None:
    """Sign `ROOT/SHA256SUMS` with an ssh key: a private one, or a public one whose private half an agent holds.

    Raises:
        BaselineError: there is no such key, no ssh-keygen, or it refuses.
        RecordError: the signature cannot be written.
    """
    if not key.is_file():
        raise BaselineError(f"No ssh key {key}: make one with `ssh-keygen -t ed25519 -f {key}`.")
    content = (root / SUMS).read_bytes()
    done = _ssh_keygen(["-Y", "sign", "-f", str(key), "-n", NAMESPACE], content)
    if done.returncode != 0:
        raise BaselineError(f"ssh-keygen does not sign with {key}: {_said(done)}")
    write_atomically(root / SIGNATURE, done.stdout.decode())


def check_signature(root: Path, signers: Path) -> str:
    """Who signed `ROOT/SHA256SUMS`, as the file of allowed signers names them.

    Raises:
        BaselineError: there is no signature, it is of other content or by nobody allowed, or there is no ssh-keygen.
    """
    signature = root / SIGNATURE
    if not signers.is_file():
        raise BaselineError(f"No file of allowed signers {signers}: each line is a name and a public key.")
    if not signature.is_file() or not (root / SUMS).is_file():
        raise BaselineError(f"{root} has no {SIGNATURE}: sign with `sae-harness baselines sign --key PATH`.")
    content = (root / SUMS).read_bytes()
    given = ["-s", str(signature), "-f", str(signers)]
    found = _ssh_keygen(["-Y", "find-principals", *given], b"")
    names = found.stdout.decode(errors="replace").split("\n")[0].strip() if found.returncode == 0 else ""
    if not names:
        raise BaselineError(f"{signature} is by none of the signers that {signers} allows: {_said(found)}")
    who = names.split(",")[0]
    done = _ssh_keygen(["-Y", "verify", "-I", who, "-n", NAMESPACE, *given], content)
    if done.returncode != 0:
        raise BaselineError(f"{signature} does not sign {SUMS} as it is: {_said(done)}")
    return who


def _sums_of(root: Path) -> dict[str, str]:
    """Relative path -> sha256, sorted by path."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")) if root.is_dir() else ():
        name = path.relative_to(root).as_posix()
        if any(part.startswith(".") for part in name.split("/")) or name in (SUMS, SIGNATURE):
            continue
        if path.is_symlink():
            raise BaselineError(f"{path} is a link: what it leads to cannot be signed. Put the file in its place.")
        if not path.is_file():
            continue
        if "\n" in name or "\r" in name:
            raise BaselineError(f"{path!r} has a line break in its name and cannot be listed: rename it.")
        try:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise BaselineError(f"{path} cannot be read: {error.strerror}.") from error
    return dict(sorted(found.items()))


def _listed(text: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None or match[2] in found:
            raise BaselineError(f"{SUMS} has a malformed line {line[:80]!r}: sign again: sae-harness baselines sign")
        found[match[2]] = match[1]
    return found


def _ssh_keygen(arguments: Sequence[str], content: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", *arguments], input=content, capture_output=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise BaselineError(
            "ssh-keygen is not installed: signatures need it (OpenSSH 8.2 or newer). Without --key and --signers the "
            "sums alone are written and checked."
        ) from None
    except subprocess.TimeoutExpired:
        raise BaselineError(f"ssh-keygen gave no answer within {_SECONDS} s: unlock the key with ssh-add.") from None


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    text = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
    return text or f"exit status {done.returncode}"
