"""SAEBench's `mdl` files, which sae-bench 0.6 still writes in its old form, in the structure of all its others."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from .audit.read_json import UnreadableError, mapping, number, text_of, whole


def is_mdl(data: Mapping[str, Any]) -> bool:
    """Whether this is a result of SAEBench's `mdl`."""
    return data.get("eval_type_id") == "mdl" and "eval_results" in data and "eval_result_metrics" not in data


def block_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """The same as an evaluation of today's structure: of each pair of bins and k, `description_length_BINS_K` and
    `mse_loss_BINS_K`; K is 0 where k is not limited.

    Raises:
        UnreadableError: a field is of the wrong type, or a pair comes twice.
    """
    rows = data["eval_results"]
    if not isinstance(rows, list):
        raise UnreadableError("eval_results must be a list")
    metrics: dict[str, float | None] = {}
    for row in rows:
        row = mapping(row, "eval_results")
        pair = f"{whole(row.get('num_bins'), 'num_bins') or 0}_{whole(row.get('k'), 'k') or 0}"
        for name in ("description_length", "mse_loss"):
            if f"{name}_{pair}" in metrics:
                raise UnreadableError(f"eval_results has two rows of bins and k {pair}")
            metrics[f"{name}_{pair}"] = number(row.get(name), name)
    return {
        "eval_type_id": "mdl",
        "eval_config": data.get("eval_config"),
        "eval_id": data.get("eval_instance_id"),
        "datetime_epoch_millis": _millis(text_of(data.get("date_time"), "date_time")),
        "eval_result_metrics": {"mdl": metrics},
        "eval_result_details": [],
        "sae_bench_commit_hash": data.get("sae_bench_version"),
        "sae_lens_id": data.get("sae_lens_id"),
        "sae_lens_release_id": data.get("sae_lens_release"),
        "sae_lens_version": data.get("sae_lens_version"),
        "sae_cfg_dict": data.get("sae_cfg_dict"),
    }


def _millis(told: str) -> int | None:
    """Milliseconds since 1970; the file gives the local time of who ran it without a zone, which is read as UTC.

    Raises:
        UnreadableError: it is no time.
    """
    if not told:
        return None
    try:
        found = datetime.fromisoformat(told)
    except ValueError:
        raise UnreadableError(f"date_time must be a time in ISO 8601, got {told[:80]!r}") from None
    zoned = found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)
    return int(zoned.timestamp() * 1000)
