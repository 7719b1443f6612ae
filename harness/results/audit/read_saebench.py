"""SAEBench's JSON, and combined records that hold several such blocks beside a training report, as evidence."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from ..saebench_mdl import block_of, is_mdl
from .evidence import Evaluation, Evidence, Setting, Training
from .read_json import UnreadableError, frozen, mapping, number, text_of, whole

NAMES = {"absorption_first_letter": "absorption"}
"""SAEBench's names of evaluations -> ours, where they differ."""

_FINAL = ("training_steps", "final_loss", "learning_rate", "sparsity_penalty", "dict_size", "layer")
_ABSORBED = ("num_absorption", "num_full_absorption")


def is_saebench(data: Mapping[str, Any]) -> bool:
    """Whether this is one evaluation as SAEBench writes it, old or new."""
    return is_mdl(data) or (_is_block(data) and not _is_flat_training(data))


def is_combined(data: Mapping[str, Any]) -> bool:
    """Whether this holds a training report, evaluations, or both, under keys of its own."""
    return _is_flat_training(data) or any(
        isinstance(v, dict) and (_is_block(v) or _is_report(v)) for v in data.values()
    )


def saebench_evidence(data: dict[str, Any], name: str, file_sha256: str, max_depth: int) -> Evidence:
    """One SAEBench file.

    Raises:
        UnreadableError: a field is of the wrong type.
    """
    data = block_of(data) if is_mdl(data) else data
    evaluation = _evaluation(data, "", max_depth)
    sae = evaluation.sae
    release, sae_id = (text_of(data.get(a) or data.get(b), a) for a, b in _SAE_NAMES)
    what = tuple(sae.get(k) for k in ("model_name", "hook_name", "d_sae", "architecture"))
    lm, hookpoint = str(what[0] or ""), str(what[1] or "")
    return Evidence(
        name=name,
        kind="saebench",
        study=f"{lm} {hookpoint}",
        group=f"{lm} {hookpoint}",
        method=str(what[3] or release),
        identity=repr((release, sae_id, *what)),
        file_sha256=file_sha256,
        key=f"{release}/{sae_id}",
        evaluations={evaluation.name: evaluation},
        lm=lm,
        hookpoint=hookpoint,
        d_in=_size(sae, "d_in"),
        d_sae=_size(sae, "d_sae"),
    )


def combined_evidence(
    data: dict[str, Any], name: str, file_sha256: str, folder: str, runs: tuple[int, ...], max_depth: int
) -> Evidence:
    """A combined record: the training report and evaluations of one run in one object.

    Raises:
        UnreadableError: a field is of the wrong type.
    """
    evaluations: dict[str, Evaluation] = {}
    training: Training | None = None
    if _is_block(data):
        block = _evaluation(data, "", max_depth)
        evaluations[block.name] = block
    if _is_flat_training(data):
        training = _training({}, {k: data[k] for k in _FINAL if k in data}, max_depth)
    for key, value in data.items():
        if not isinstance(value, dict):
            continue
        if _is_report(value):
            training = _training(mapping(value.get("config"), f"{key}.config"), _final(value, key), max_depth)
        elif _is_block(value):
            block = _evaluation(value, key, max_depth)
            evaluations[block.name if block.name not in evaluations else f"{block.name} ({key})"] = block
    sae = next((e.sae for e in evaluations.values() if e.sae), {})
    settings = {} if training is None else training.settings
    lm = str(settings.get("lm_name") or sae.get("model_name") or "")
    hookpoint = str(sae.get("hook_name") or settings.get("submodule_name") or "")
    d_sae = _size(settings, "dict_size") or _size({} if training is None else training.final, "dict_size")
    return Evidence(
        name=name,
        kind="combined",
        study=folder,
        group=f"{lm} {hookpoint}",
        method=name.rpartition("/")[2].removesuffix(".json"),
        identity=_identity(training) or name,
        file_sha256=file_sha256,
        training=training,
        evaluations=evaluations,
        lm=lm,
        hookpoint=hookpoint,
        d_in=_size(settings, "activation_dim") or _size(sae, "d_in"),
        d_sae=d_sae or _size(sae, "d_sae"),
        run_numbers=runs,
    )


_SAE_NAMES = (("sae_lens_release_id", "sae_set"), ("sae_lens_id", "sae_id"))


def _is_block(data: Mapping[str, Any]) -> bool:
    new = isinstance(data.get("eval_type_id"), str) and "eval_result_metrics" in data
    return new or ("metrics" in data and "eval_cfg" in data and "sae_set" in data)


def _is_report(data: Mapping[str, Any]) -> bool:
    return isinstance(data.get("final_info"), dict) or (isinstance(data.get("config"), dict) and len(data) <= 2)


def _is_flat_training(data: Mapping[str, Any]) -> bool:
    return "training_steps" in data and "final_loss" in data


def _final(block: Mapping[str, Any], key: str) -> dict[str, Any]:
    return mapping(block.get("final_info"), f"{key}.final_info")


def _size(where: Mapping[str, Setting], name: str) -> int | None:
    value = where.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _settings(data: Mapping[str, Any], max_depth: int) -> dict[str, Setting]:
    return {sys.intern(key): frozen(value, max_depth) for key, value in data.items()}


def _training(config: dict[str, Any], final: dict[str, Any], max_depth: int) -> Training:
    lr = config.get("lr", final.get("learning_rate"))
    return Training(
        trainer=text_of(config.get("trainer_class"), "trainer_class"),
        label=text_of(config.get("wandb_name"), "wandb_name"),
        settings=_settings(config, max_depth),
        final=_settings(final, max_depth),
        steps=whole(final.get("training_steps", config.get("steps")), "training_steps"),
        loss=number(final.get("final_loss"), "final_loss"),
        lr=number(lr, "lr"),
        seed=whole(config.get("seed"), "seed"),
        layer=whole(final.get("layer", config.get("layer")), "layer"),
        target_l0=number(config.get("target_l0"), "target_l0"),
    )


def _identity(training: Training | None) -> str:
    """Runs told the same that end at the same loss are one SAE; a run that never ended is known by its name alone."""
    if training is None or training.loss is None:
        return ""
    told = sorted((k, v) for k, v in training.settings.items() if k not in ("device", "wandb_name"))
    return repr((training.label, training.loss, told))


def _evaluation(data: dict[str, Any], key: str, max_depth: int) -> Evaluation:
    old = "eval_type_id" not in data
    where = f"{key}: " if key else ""
    type_id = "core" if old else text_of(data["eval_type_id"], f"{where}eval_type_id")
    name = NAMES.get(type_id, type_id)
    groups = mapping(data.get("metrics" if old else "eval_result_metrics"), f"{where}metrics")
    rows = data.get("eval_result_details") or []
    if not isinstance(rows, list):
        raise UnreadableError(f"{where}eval_result_details must be a list")
    millis = number(data.get("datetime_epoch_millis"), f"{where}datetime_epoch_millis")
    return Evaluation(
        name=name,
        key=key or name,
        metrics=_metrics(groups, where),
        eval_id=text_of(data.get("eval_id"), f"{where}eval_id"),
        time=None if millis is None else millis / 1000,
        commit=text_of(data.get("sae_bench_commit_hash"), f"{where}sae_bench_commit_hash"),
        config=_settings(mapping(data.get("eval_cfg" if old else "eval_config"), f"{where}eval_config"), max_depth),
        sae=_settings(_cfg_of(data, where), max_depth),
        groups=tuple(map(sys.intern, groups)),
        details_sha256=_details(rows),
        letters=_letters(rows, where) if name == "absorption" else {},
    )


def _cfg_of(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What the evaluation says of its SAE, with the names it goes by."""
    cfg = dict(mapping(data.get("sae_cfg_dict"), f"{where}sae_cfg_dict"))
    for name, (new, _) in zip(("release", "id"), _SAE_NAMES, strict=True):
        if cfg and new in data:
            cfg[name] = data[new]
    return cfg


def _metrics(groups: Mapping[str, Any], where: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for group, values in groups.items():
        for name, value in values.items() if isinstance(values, dict) else ((group, values),):
            measured = number(value, f"{where}{group}.{name}")
            if measured is not None:
                found[sys.intern(name)] = measured
    return found


def _details(rows: list[Any]) -> str:
    """Hash of what depends on the SAE in the rows; empty where too little of it is told to be alike only by copying.

    Probes of the language model are shared by all SAEs, for good reason: they tell nothing.
    """
    own = [{k: v for k, v in row.items() if not _is_shared(k)} for row in rows if isinstance(row, dict)]
    told = {v for row in own for v in row.values() if isinstance(v, (int, float)) and v not in (0, 1, 0.5)}
    if len(told) < 3:
        return ""
    text = json.dumps(own, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_shared(key: str) -> bool:
    return key.startswith("llm_") or key in ("num_probe_true_positives", "index")


def _letters(rows: list[Any], where: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        row = mapping(row, f"{where}eval_result_details")
        absorbed = next((row[name] for name in _ABSORBED if name in row), 0)
        count = number(absorbed, f"{where}num_absorption")
        found[text_of(row.get("first_letter"), f"{where}first_letter")] = int(count or 0)
    return found
