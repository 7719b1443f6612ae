"""The peer's virtual environment and the process that runs in it. Standard library only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements-peers.txt"
WORKER = HERE / "peer_worker.py"
_CHECK = """
import sys
from importlib.metadata import version
from dictionary_learning.trainers.top_k import TopKTrainer
wrong = [r for r in sys.argv[1:] if version(r.partition("==")[0]).partition("+")[0] != r.partition("==")[2]]
sys.exit(f"other versions than {wrong}" if wrong else 0)
"""


class PeerError(Exception):
    """The peer cannot be installed or run; the message says what to do."""


def ensure_environment(folder: Path, requirements: Path = REQUIREMENTS) -> Path:
    """The Python of an environment that holds the peer, made in `folder` unless it is there already.

    Raises:
        PeerError: it cannot be made, or the peer cannot be imported in it.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    check = [str(python), "-c", _CHECK, *pinned(requirements.read_text())]
    if python.exists() and subprocess.run(check, capture_output=True, check=False).returncode == 0:
        return python
    print(f"Installing the peer into {folder} (some 2 GB, once).", file=sys.stderr)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    _do("made", [sys.executable, "-m", "venv", str(folder)], folder)
    _do("filled", [*pip, "install", "--quiet", "-r", str(requirements)], folder)
    # nnsight pulls torchvision, whose build for CUDA breaks beside a CPU torch ("operator torchvision::nms does not
    # exist") as soon as transformers is imported. The peer needs no images.
    _do("mended", [*pip, "uninstall", "--quiet", "--yes", "torchvision"], folder)
    _do("used", check, folder)
    return python


def pinned(requirements: str) -> list[str]:
    """The `name==version` lines of a requirements file."""
    lines = (line.partition("#")[0].strip() for line in requirements.splitlines())
    return [line for line in lines if "==" in line]


def _do(what: str, command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except OSError as error:
        raise PeerError(f"The peer's environment {folder} cannot be {what}: {error}.") from error
    if done.returncode != 0:
        shown = " ".join(part for part in command if "\n" not in part)
        raise PeerError(
            f"The peer's environment {folder} cannot be {what}: `{shown}` ended with {done.returncode}.\n"
            f"{last_lines(done.stdout)}\n"
            f"Needed are a network or package mirror that has what {REQUIREMENTS.name} lists, and some 2 GB of disk; "
            "or give an environment that holds it with --environment."
        )


def last_lines(text: str, n: int = 8) -> str:
    """The last `n` lines that hold something, indented."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-n:])


class PeerProcess:
    """The worker, running; a context manager that ends it."""

    def __init__(self, python: Path, n_threads: int, log: Path) -> None:
        self._log = log
        # Nothing of this environment may leak into the peer's.
        environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [str(python), str(WORKER), str(n_threads)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environ,
            )
        self.versions: dict[str, str] = self._read()["versions"]

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """The worker's reply to a job.

        Raises:
            PeerError: the worker ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> PeerError:
        status = self._process.wait()
        return PeerError(f"The peer's process ended with {status}:\n{last_lines(self._log.read_text())}")
