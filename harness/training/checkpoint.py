"""SAEs and training states as folders of safetensors and JSON, each file with its sha256.

Layout of a saved SAE: `sae.safetensors` (weights, in the order and layout of SAELens: W_enc [d_in, d_sae],
W_dec [d_sae, d_in]) and `sae.json` (format, architecture, sizes, options, sae_id, sha256 of the weights).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..artefacts.key import canonical_json, file_sha256
from ..errors import CacheError, CheckpointError, ConfigError
from ..interfaces.sae import SAE, SAEConfig

FORMAT = 1
WEIGHTS = "sae.safetensors"
CONFIG = "sae.json"


def sae_id(sae: SAE) -> str:
    """sha256 of the config and of every weight's name, dtype, shape and bytes."""
    digest = hashlib.sha256(canonical_json(_config(sae)).encode())
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _config(sae: SAE) -> dict[str, Any]:
    config = sae.config
    return {
        "architecture": config.architecture,
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "options": dict(config.options),
    }


def save_sae(sae: SAE, folder: Path) -> str:
    """Write the SAE into `folder` (made if absent) and return its id."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in sae.state_dict().items()}
    # safetensors refuses an empty file on some versions; a parameterless SAE still needs its weights file.
    save_file(tensors or {"_empty": torch.zeros(1)}, folder / WEIGHTS)
    identity = sae_id(sae)
    meta = {"format": FORMAT, **_config(sae), "sae_id": identity, "weights_sha256": file_sha256(folder / WEIGHTS)}
    (folder / CONFIG).write_text(json.dumps(meta, indent=1, sort_keys=True) + "\n")
    return identity


def read_config(folder: Path) -> dict[str, Any]:
    """The JSON of a saved SAE.

    Raises:
        CheckpointError: it is missing, not JSON, or of a newer format.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"No saved SAE at {folder}: expected a folder with {CONFIG} and {WEIGHTS}, as `sae-harness run` writes."
        )
    try:
        meta = json.loads(path.read_text())
        version = meta["format"]
        meta["architecture"], meta["d_in"], meta["d_sae"], meta["options"], meta["sae_id"], meta["weights_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a saved SAE's config ({error!r}): save it again.") from None
    if version != FORMAT:
        raise CheckpointError(f"{path} has format {version}; this version reads {FORMAT}: upgrade sae-harness.")
    return meta


def load_sae(folder: Path, load_class: Callable[[str], type[SAE]]) -> SAE:
    """The SAE saved in `folder`; `load_class` gives the class of an architecture's name.

    Raises:
        CheckpointError: a file is missing or differs from its hash, or the weights do not fit the config.
    """
    meta = read_config(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS}: the saved SAE is incomplete.")
    if file_sha256(weights) != meta["weights_sha256"]:
        raise CheckpointError(
            f"{weights} is corrupt: its sha256 differs from the one in {CONFIG}. Restore the file or train again."
        )
    try:
        config = SAEConfig(
            architecture=meta["architecture"], d_in=meta["d_in"], d_sae=meta["d_sae"], options=meta["options"]
        )
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} holds values no SAE can have ({error}): save it again.") from None
    sae = load_class(config.architecture)(config)
    try:
        tensors = load_file(weights)
        tensors.pop("_empty", None)
        with torch.no_grad():
            sae.load_state_dict(tensors, strict=True)
    except (SafetensorError, RuntimeError) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{weights} does not fit architecture {config.architecture!r}: {first}") from None
    if sae_id(sae) != meta["sae_id"]:
        raise CheckpointError(f"{folder}: the weights or options differ from sae_id in {CONFIG}. Train again.")
    sae.requires_grad_(False)
    return sae.eval()


def flatten(tree: Any, prefix: str = "") -> tuple[dict[str, Tensor], Any]:
    """Split nested dicts and lists into named tensors and JSON that refers to them."""
    if isinstance(tree, Tensor):
        tensor = tree.detach().cpu()
        if tensor.ndim == 2 and not tensor.is_contiguous() and tensor.t().is_contiguous():
            # As it lies: turning the encoder's weights and averages over costs as much as writing them.
            return {prefix: tensor.t()}, {"__transposed__": prefix}
        return {prefix: tensor.contiguous()}, {"__tensor__": prefix}
    if isinstance(tree, Mapping):
        tensors: dict[str, Tensor] = {}
        plain: list[list[Any]] = []
        for key, value in tree.items():
            inner, rest = flatten(value, f"{prefix}/{key}")
            tensors.update(inner)
            plain.append([key, rest])
        return tensors, {"__dict__": plain}
    if isinstance(tree, (list, tuple)):
        tensors, items = {}, []
        for i, value in enumerate(tree):
            inner, rest = flatten(value, f"{prefix}/{i}")
            tensors.update(inner)
            items.append(rest)
        return tensors, items
    return {}, tree


def unflatten(tensors: Mapping[str, Tensor], plain: Any) -> Any:
    """The inverse of `flatten` (tuples come back as lists)."""
    if isinstance(plain, dict) and "__tensor__" in plain:
        return tensors[plain["__tensor__"]]
    if isinstance(plain, dict) and "__transposed__" in plain:
        return tensors[plain["__transposed__"]].t()
    if isinstance(plain, dict):
        return {key: unflatten(tensors, value) for key, value in plain["__dict__"]}
    if isinstance(plain, list):
        return [unflatten(tensors, value) for value in plain]
    return plain


def save_state(folder: Path, step: int, tree: Mapping[str, Any]) -> None:
    """Write a resumable state as `folder/state-<step>`, whole or not at all, and drop older ones.

    Raises:
        CacheError: it cannot be written.
    """
    temporary = folder / f"tmp-{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        _write_state(temporary, step, tree)
        target = folder / f"state-{step:09d}"
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        for old in folder.iterdir():
            if old != target:
                shutil.rmtree(old)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)  # the reason to tell is `error`; the next save removes the rest
        raise CacheError(
            f"The state of training cannot be saved in {folder} ({error}). Free space there, or put the cache "
            "elsewhere with --cache FOLDER or SAE_HARNESS_CACHE."
        ) from error


def _write_state(folder: Path, step: int, tree: Mapping[str, Any]) -> None:
    tensors, plain = flatten(tree)
    save_file(tensors, folder / "state.safetensors")
    digest = file_sha256(folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps({"sha256": digest, "step": step, "tree": plain}))
    for file in folder.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def load_state(folder: Path) -> tuple[int, dict[str, Any]] | None:
    """The newest whole state in `folder` as (step, tree), or None. A damaged one is told and removed."""
    if not folder.is_dir():
        return None
    for candidate in sorted(folder.glob("state-*"), reverse=True):
        try:
            meta = json.loads((candidate / "state.json").read_text())
            if file_sha256(candidate / "state.safetensors") == meta["sha256"]:
                return meta["step"], unflatten(load_file(candidate / "state.safetensors"), meta["tree"])
            fault = "its sha256 differs"
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            fault = repr(error)
        # A state only saves time: without it training starts further back and ends the same.
        warnings.warn(f"Training state {candidate} is corrupt ({fault}): removed, going back.", stacklevel=2)
        shutil.rmtree(candidate)
    return None
