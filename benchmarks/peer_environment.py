"""The peers' virtual environments, one each, and the processes that run in them. Standard library only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WORKER = HERE / "peer_worker.py"
DEFAULT_FOLDER = HERE.parent / ".cache" / "peers"
_CHECK = """
import sys
from importlib import import_module
from importlib.metadata import version
wrong = [r for r in sys.argv[2:] if version(r.partition("==")[0]).partition("+")[0] != r.partition("==")[2]]
wrong and sys.exit(f"other versions than {wrong}")
import_module(sys.argv[1])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A library that the benchmarks compare with."""

    name: str
    distribution: str
    needed: str
    """The module whose import shows that the environment can be used."""
    unwanted: tuple[str, ...] = ()
    """Distributions that are removed after installing."""

    @property
    def requirements(self) -> Path:
        """The file that pins its versions."""
        return HERE / "requirements" / f"{self.name}.txt"


# nnsight and sae-bench pull torchvision, whose build for CUDA breaks beside a CPU torch ("operator torchvision::nms
# does not exist") as soon as transformers is imported. No peer needs images here.
PEERS: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            name="dictionary_learning",
            distribution="dictionary-learning",
            needed="dictionary_learning.trainers.top_k",
            unwanted=("torchvision",),
        ),
        Peer(name="sae_lens", distribution="sae-lens", needed="sae_lens"),
        Peer(name="sparsify", distribution="eai-sparsify", needed="sparsify"),
        Peer(
            name="sae_bench",
            distribution="sae-bench",
            needed="sae_bench.evals.core.main",
            unwanted=("torchvision",),
        ),
    )
}


class PeerError(Exception):
    """A peer cannot be installed or run; the message says what to do."""


def ensure_environment(folder: Path, peer: Peer = PEERS["dictionary_learning"]) -> Path:
    """The Python of an environment that holds the peer, made in `folder` unless it is there already.

    Raises:
        PeerError: it cannot be made, or the peer cannot be imported in it.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    check = [str(python), "-c", _CHECK, peer.needed, *pinned(peer.requirements.read_text())]
    if python.exists() and subprocess.run(check, capture_output=True, check=False).returncode == 0:
        return python
    print(f"Installing {peer.distribution} into {folder} (some 2 GB, once).", file=sys.stderr)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    _do("made", [sys.executable, "-m", "venv", str(folder)], folder, peer)
    _do("filled", [*pip, "install", "--quiet", "-r", str(peer.requirements)], folder, peer)
    if peer.unwanted:
        _do("mended", [*pip, "uninstall", "--quiet", "--yes", *peer.unwanted], folder, peer)
    _do("used", check, folder, peer)
    return python


def pinned(requirements: str) -> list[str]:
    """The `name==version` lines of a requirements file."""
    lines = (line.partition("#")[0].strip() for line in requirements.splitlines())
    return [line for line in lines if "==" in line]


def _do(what: str, command: list[str], folder: Path, peer: Peer) -> None:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except OSError as error:
        raise PeerError(f"The environment {folder} of {peer.distribution} cannot be {what}: {error}.") from error
    if done.returncode != 0:
        shown = " ".join(part for part in command if "\n" not in part)
        raise PeerError(
            f"The environment {folder} of {peer.distribution} cannot be {what}: `{shown}` ended with "
            f"{done.returncode}.\n{last_lines(done.stdout)}\n"
            f"Needed are a network or package mirror that has what requirements/{peer.requirements.name} lists, and "
            "some 2 GB of disk; or give an environment that holds it with --environment (quality) or a folder of "
            "such environments with --environments (speed)."
        )


def last_lines(text: str, n: int = 8) -> str:
    """The last `n` lines that hold something, indented."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-n:])


class PeerProcess:
    """A worker, running; a context manager that ends it. It waits for jobs on its stdin, and uses no CPU meanwhile."""

    def __init__(
        self,
        python: Path,
        n_threads: int,
        log: Path,
        *,
        worker: Path = WORKER,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Start `python worker n_threads *arguments`; `environ` is added to the environment variables."""
        self._worker, self._log = worker, log
        # Nothing of this environment may leak into the peer's.
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [str(python), str(worker), str(n_threads), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**inherited, **(environ or {})},
            )
        self.versions: dict[str, str] = self.read()["versions"]

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    def close(self) -> None:
        """End the worker."""
        self._process.terminate()
        self._process.communicate()

    def run(self, job: Mapping[str, Any]) -> dict[str, Any]:
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
        return self.read()

    def read(self) -> dict[str, Any]:
        """The next reply, for jobs that give several.

        Raises:
            PeerError: the worker ended.
        """
        assert self._process.stdout is not None
        # Some libraries print while they are imported, before the worker has taken its stdout away from them.
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise self._ended()

    def _ended(self) -> PeerError:
        status = self._process.wait()
        return PeerError(f"The worker {self._worker.name} ended with {status}:\n{last_lines(self._log.read_text())}")
