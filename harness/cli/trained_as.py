"""What a saved SAE was trained as: written beside the copies that `run --out` makes, read where one is shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bench import Job
from ..errors import CheckpointError, ConfigError

_FILE, _KEY = "training.json", "trained_as"


def require_saved(folder: Path) -> None:
    """Raises CheckpointError where there is no such folder; torch, which is needed to load an SAE, comes later."""
    if not folder.exists():
        raise CheckpointError(f"No saved SAE at {folder}: no such folder. `sae-harness run --out` writes them.")


def write_trained_as(folder: Path, job: Job, suite: str) -> None:
    """Add method, preset, target L0 and suite to what is known of the training.

    Raises:
        ConfigError: the file cannot be read or written.
    """
    file = folder / _FILE
    told = {"method": job.method.spec.name, "preset": job.method.preset, "target_l0": job.target_l0, "suite": suite}
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**facts, _KEY: told}, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{file} cannot be extended ({error}): give another --out, or use --retrain.") from error


def read_trained_as(folder: Path) -> Mapping[str, Any]:
    """`seed`, and where it was written `method`, `preset`, `target_l0` and `suite`; empty for an SAE from elsewhere.

    Of an SAE in the cache, `method` and `target_l0` are in the manifest beside it.
    """
    facts = _read(folder / _FILE)
    inputs = _read(folder / "manifest.json").get("inputs")
    found = {k: inputs[k] for k in ("method", "target_l0") if k in inputs} if isinstance(inputs, dict) else {}
    told = facts.get(_KEY)
    found |= told if isinstance(told, dict) else {}
    return {**found, "seed": facts["seed"]} if "seed" in facts else found


def _read(file: Path) -> dict[str, Any]:
    """The mapping in a file; empty where there is none, since a saved SAE needs neither."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def described(meta: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """One line: method, seed, target L0 and suite as far as they are known, then architecture, sizes and id."""
    method = f"{known['method']}@{known['preset']}" if known.get("preset") else known.get("method", "method not known")
    parts = [f"{method} (preset not known)" if "method" in known and "preset" not in known else str(method)]
    parts += [f"seed {known['seed']}"] if known.get("seed") is not None else []
    parts += [f"target L0 {known['target_l0']}"] if known.get("target_l0") is not None else []
    parts += [f"trained for suite {known['suite']}"] if known.get("suite") else []
    sizes = f"d_in {meta['d_in']} · d_sae {meta['d_sae']}"
    return " · ".join([*parts, f"architecture {meta['architecture']}", sizes, str(meta["sae_id"])[:12]])
