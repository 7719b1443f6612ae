"""Faults to plant in sound record sets. Each takes a random source and the files, edits them, and returns the names
of the files in one of which its rule must be found."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

Files = dict[str, dict[str, Any]]
Plant = Callable[[random.Random, Files], set[str]]


def _ranked(files: Files) -> list[str]:
    """Files of what is compared: controls and presets known to be faulty may do anything."""
    method = {n: d.get("method", {}) for n, d in files.items()}
    return sorted(n for n in files if not method[n].get("control") and not method[n].get("faulty"))


def _one(rng: random.Random, files: Files, wanted: Callable[[str, dict[str, Any]], bool] = lambda *_: True) -> str:
    return rng.choice([n for n in _ranked(files) if wanted(n, files[n])])


def _set(record: dict[str, Any], path: str, value: Any) -> None:
    *folders, last = path.split("/")
    for name in folders:
        record = record[name]
    record[last] = value


# Our own records.


def _ours(path: str, value: Any, method: str = "") -> Plant:
    """Set one field of one record; a callable is given the value that was there."""

    def plant(rng: random.Random, files: Files) -> set[str]:
        name = _one(rng, files, lambda n, d: n.startswith(method))
        *folders, last = path.split("/")
        place = files[name]
        for folder in folders:
            place = place[folder]
        place[last] = value(place[last]) if callable(value) else value
        return {name}

    return plant


def _all_of(method: str, edit: Callable[[dict[str, Any]], None]) -> Plant:
    def plant(rng: random.Random, files: Files) -> set[str]:
        names = {n for n in files if n.startswith(method)}
        for name in names:
            edit(files[name])
        return names

    return plant


def _copied_metrics(rng: random.Random, files: Files) -> set[str]:
    a, b = rng.sample(_ranked(files), 2)
    for metric, entry in files[a]["metrics"].items():
        if entry["evaluator"] == "stability":
            files[b]["metrics"][metric] = copy.deepcopy(entry)
    # Two numbers are alike by chance: the whole of core is not.
    for metric, entry in files[a]["metrics"].items():
        if entry["evaluator"] == "core":
            files[b]["metrics"][metric] = copy.deepcopy(entry)
    return {a, b}


def _copied_loss(rng: random.Random, files: Files) -> set[str]:
    a, b = rng.sample(_ranked(files), 2)
    files[b]["training"]["final_loss"] = files[a]["training"]["final_loss"]
    return {a, b}


def _off_target(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    files[name]["metrics"]["l0"]["value"] *= rng.uniform(1.2, 3)
    return {name}


def _never_trained(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    files[name]["training"] |= {"steps": 0, "tokens": 0, "final_loss": None, "final_terms": {}}
    return {name}


def _worse_than_the_mean(rng: random.Random, files: Files) -> set[str]:
    name, variance = _one(rng, files), -rng.uniform(0.01, 5)
    _set(files[name], "metrics/explained_variance/value", variance)
    _set(files[name], "metrics/fvu/value", 1 - variance)
    return {name}


def _no_aux(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files, lambda n, _: n.startswith("topk"))
    _set(files[name], "training/final_terms/aux", 0.0)
    _set(files[name], "training/dead_latents", files[name]["protocol"]["d_sae"] // 3)
    return {name}


def _far_l0(record: dict[str, Any]) -> None:
    record["metrics"]["l0"]["value"] *= 0.05
    record["training"]["l0_reached"] = False if record["training"]["l0_reached"] else None


def _second_result_of_a_key(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    other = copy.deepcopy(files[name])
    other["sae_id"] = "0" * 64
    other["training"]["final_loss"] *= 1.001
    files["again.json"] = other
    return {name, "again.json"}


def _dropped_seeds(rng: random.Random, files: Files) -> set[str]:
    for name in [n for n, d in files.items() if n.startswith("topk") and d["training"]["seed"] > 1]:
        del files[name]
    return {n for n in files if n.startswith("topk")}


def _dropped_evaluation(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    del files[name]["evaluations"]["stability"]
    files[name]["metrics"] = {k: v for k, v in files[name]["metrics"].items() if v["evaluator"] != "stability"}
    return {name}


def _dropped_metric(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    del files[name]["metrics"][rng.choice(["cosine", "temporal_distance", "l2_ratio"])]
    return {name}


def _zeros(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    for entry in files[name]["metrics"].values():
        if entry["evaluator"] == "core":
            entry["value"] = 0.0
    return {name}


def _strangers(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    _set(files[name], "metrics/temporal_distance/value", rng.uniform(2.0, 2.1))
    return {name}


def _narrow(record: dict[str, Any]) -> None:
    record["protocol"]["d_sae"] = record["protocol"]["d_in"]


HARNESS: list[tuple[str, str, Plant]] = [
    ("F01", "identity", _copied_metrics),
    ("F03", "identity", _ours("metrics/mse/value", lambda v: v * 3, "topk")),
    ("F03", "identity", _ours("metrics/fvu/value", lambda v: v / 2)),
    ("F05", "identity", _ours("method/architecture", "gated")),
    ("F07", "identity", _ours("evaluations/core/wall_seconds", lambda v: v / 1000)),
    ("F08", "identity", _copied_loss),
    ("F09", "identity", _ours("metrics/cosine/evaluator", "ghost")),
    ("F11", "identity", _ours("metrics/cosine/version", 2)),
    ("F12", "identity", _ours("protocol/lm_sha256", "")),
    ("F13", "training", _never_trained),
    ("F13", "training", _ours("training/tokens", lambda v: v // 2)),
    ("F13", "training", _ours("metrics/l0/value", 0.0)),
    ("F15", "training", _all_of("", _narrow)),
    ("F17", "training", _no_aux),
    ("F18", "training", _worse_than_the_mean),
    ("F19", "training", _ours("metrics/mse/value", -1.0)),
    ("F19", "training", _ours("metrics/cosine/value", 1.7)),
    ("F20", "training", _off_target),
    ("F22", "confounds", _all_of("topk", _far_l0)),
    ("F23", "confounds", _all_of("temporal", lambda d: _set(d, "method/options/base.grad_clip", 0.1))),
    ("F24", "confounds", _all_of("temporal", lambda d: _set(d, "method/options/base.lr", 0.01))),
    ("F25", "confounds", _ours("protocol/eval_data", "9" * 64)),
    ("F26", "confounds", _all_of("", lambda d: _set(d, "protocol/eval_data", d["protocol"]["train_data"]))),
    ("F28", "confounds", _second_result_of_a_key),
    ("F29", "confounds", _ours("method/options/sae.k", 7, "topk")),
    ("F30", "confounds", _dropped_seeds),
    ("F31", "coverage", _dropped_evaluation),
    ("F31", "coverage", _dropped_metric),
    ("F33", "coverage", _zeros),
    ("F34", "formulation", _strangers),
    ("F46", "semantics", _ours("evaluations/core", lambda v: {**v, "options": {"k": 3}})),
    ("F47", "infrastructure", _ours("protocol/train_data", "9" * 64)),
    ("F48", "infrastructure", _ours("protocol/seq_len", 64)),
    ("F49", "infrastructure", _ours("training/steps", lambda v: v + 7)),
    ("F50", "infrastructure", _ours("training/wall_seconds", 0.0)),
    ("F50", "infrastructure", _ours("training/peak_memory_mib", 0.0)),
]


# SAEBench's files.


def _blocks(files: Files, kind: str) -> list[str]:
    return sorted(n for n, d in files.items() if d["eval_type_id"] == kind)


def _field(kind: str, path: str, value: Any) -> Plant:
    """Set one field of one file of a kind; a callable is given the value that was there."""

    def plant(rng: random.Random, files: Files) -> set[str]:
        name = rng.choice(_blocks(files, kind))
        *folders, last = path.split("/")
        place = files[name]
        for folder in folders:
            place = place[folder]
        place[last] = value(place.get(last)) if callable(value) else value
        return {name}

    return plant


def _stale_rows(rng: random.Random, files: Files) -> set[str]:
    kind = rng.choice([k for k in ("absorption_first_letter", "scr", "sparse_probing") if _blocks(files, k)])
    a, b = rng.sample(_blocks(files, kind), 2)
    for part in ("eval_result_details", "eval_result_metrics"):
        files[b][part] = copy.deepcopy(files[a][part])
    return {a, b}


def _copied_core(rng: random.Random, files: Files) -> set[str]:
    a, b = rng.sample(_blocks(files, "core"), 2)
    files[b]["eval_result_metrics"] = copy.deepcopy(files[a]["eval_result_metrics"])
    return {a, b}


def _few_letters(rng: random.Random, files: Files) -> set[str]:
    name = rng.choice(_blocks(files, "absorption_first_letter"))
    rows = files[name]["eval_result_details"][: rng.randrange(1, 20)]
    files[name]["eval_result_details"] = [{**row, "num_absorption": 0, "absorption_rate": 0.0} for row in rows]
    files[name]["eval_result_metrics"]["mean"]["mean_absorption_score"] = 0.0
    return {name}


def _half(rng: random.Random, files: Files) -> set[str]:
    a, b = rng.sample(_blocks(files, "sparse_probing"), 2)
    files[b]["eval_result_metrics"]["sae"] = dict(files[a]["eval_result_metrics"]["sae"])
    return {a, b}


def _pasted(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    files["pasted.json"] = {**copy.deepcopy(files[name]), "sae_lens_id": "another"}
    return {name, "pasted.json"}


def _chance(rng: random.Random, files: Files) -> set[str]:
    name = rng.choice(_blocks(files, "sparse_probing"))
    sae = files[name]["eval_result_metrics"]["sae"]
    files[name]["eval_result_metrics"]["sae"] = dict.fromkeys(sae, 0.5)
    return {name}


def _far_architecture(rng: random.Random, files: Files) -> set[str]:
    architecture = files[rng.choice(_blocks(files, "core"))]["sae_cfg_dict"]["architecture"]
    names = [n for n in _blocks(files, "core") if files[n]["sae_cfg_dict"]["architecture"] == architecture]
    for name in names:
        files[name]["eval_result_metrics"]["sparsity"]["l0"] *= 0.01
    return set(names)


def _result_of_the_same(rng: random.Random, files: Files) -> set[str]:
    name = rng.choice(_blocks(files, "core"))
    other = copy.deepcopy(files[name])
    other["eval_result_metrics"]["sparsity"]["l1"] += 1.0
    other["eval_id"] = "another"
    files["again.json"] = other
    return {name, "again.json"}


def _lost_file(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    sae = files.pop(name)["sae_lens_id"]
    return {n for n, d in files.items() if d["sae_lens_id"] == sae}


def _all_zero(rng: random.Random, files: Files) -> set[str]:
    name = rng.choice([*_blocks(files, "scr"), *_blocks(files, "tpp")])
    for group in files[name]["eval_result_metrics"].values():
        group.update(dict.fromkeys(group, 0.0))
    return {name}


def _tie(rng: random.Random, files: Files) -> set[str]:
    for name in _blocks(files, "core"):
        files[name]["eval_config"]["llm_dtype"] = "bfloat16"
    a, b = rng.sample(_blocks(files, "core"), 2)
    for name in (a, b):
        behaviour = files[name]["eval_result_metrics"]["model_behavior_preservation"]
        behaviour |= {"kl_div_with_sae": behaviour["kl_div_with_ablation"] / 8, "kl_div_score": 0.875}
    return {a, b}


def _back_again(rng: random.Random, files: Files) -> set[str]:
    """One SAE is evaluated on another corpus, and then on the first again."""
    name = rng.choice(_blocks(files, "core"))
    for i, dataset in enumerate(("another", files[name]["eval_config"]["dataset"]), 1):
        later = copy.deepcopy(files[name])
        later["eval_id"] = f"later {i}"
        later["datetime_epoch_millis"] += i * 3_600_000
        later["eval_config"]["dataset"] = dataset
        files[f"later_{i}.json"] = later
    return {"later_2.json"}


_CORE = "eval_result_metrics"
SAEBENCH: list[tuple[str, str, tuple[str, ...], Plant]] = [
    ("F01", "identity", ("absorption_first_letter", "scr"), _stale_rows),
    ("F01", "identity", (), _copied_core),
    ("F02", "identity", ("absorption_first_letter",), _few_letters),
    ("F03", "identity", (), _field("core", f"{_CORE}/model_behavior_preservation/kl_div_score", lambda v: v - 0.1)),
    ("F03", "identity", (), _field("core", f"{_CORE}/model_performance_preservation/ce_loss_score", lambda v: v + 0.1)),
    ("F04", "identity", (), _field("core", "sae_cfg_dict/d_sae", lambda v: v * 2)),
    ("F04", "identity", (), _field("core", "sae_cfg_dict/architecture", "another")),
    ("F06", "identity", ("sparse_probing",), _half),
    ("F09", "identity", ("scr",), _field("scr", _CORE, {"tpp_metrics": {"tpp_threshold_2_total_metric": 0.1}})),
    ("F10", "identity", (), _pasted),
    ("F11", "identity", (), _field("core", "sae_bench_commit_hash", "0" * 40)),
    ("F12", "identity", (), _field("core", "sae_cfg_dict/training_tokens", -100000)),
    ("F12", "identity", (), _field("core", "sae_cfg_dict/device", "")),
    ("F13", "training", (), _field("core", f"{_CORE}/sparsity/l0", 0.0)),
    ("F13", "training", ("sparse_probing",), _chance),
    ("F14", "training", (), _field("core", "sae_cfg_dict/hook_layer", lambda v: v + 1)),
    ("F14", "training", (), _field("core", "sae_lens_release_id", "a_release_layer_99")),
    ("F15", "training", (), _field("core", "sae_cfg_dict/d_sae", 2304)),
    ("F18", "training", (), _field("core", f"{_CORE}/reconstruction_quality/explained_variance", -1.3)),
    ("F19", "training", (), _field("core", f"{_CORE}/reconstruction_quality/mse", -1.0)),
    ("F22", "confounds", (), _far_architecture),
    (
        "F25",
        "confounds",
        (),
        _field("core", f"{_CORE}/model_performance_preservation/ce_loss_without_sae", lambda v: v + 0.3),
    ),
    ("F26", "confounds", (), _field("core", "sae_cfg_dict/dataset_path", "Skylion007/openwebtext")),
    ("F28", "confounds", (), _result_of_the_same),
    ("F31", "coverage", (), _lost_file),
    ("F31", "coverage", (), _field("core", "eval_config/n_eval_reconstruction_batches", 20)),
    ("F33", "coverage", ("scr",), _all_zero),
    ("F40", "semantics", (), _field("core", "eval_config/batch_size_prompts", 8)),
    ("F41", "semantics", (), _field("core", f"{_CORE}/reconstruction_quality/explained_variance_legacy", 0.7)),
    ("F42", "semantics", (), _tie),
    (
        "F43",
        "semantics",
        ("absorption_first_letter",),
        _field("absorption_first_letter", "eval_result_details", lambda v: v[:-1]),
    ),
    ("F46", "semantics", ("unlearning",), _field("unlearning", "eval_config/multipliers", [10, 25])),
    ("F47", "infrastructure", (), _field("core", "eval_config/dataset", "")),
    ("F48", "infrastructure", (), _back_again),
]
"""(rule, family, kinds the set must have, plant)."""


# Combined records.


def _report(record: dict[str, Any]) -> dict[str, Any]:
    return next(v for k, v in record.items() if k.startswith("training"))


def _block(record: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(v for v in record.values() if v.get("eval_type_id") == kind)


def _in_report(part: str, name: str, value: Any) -> Plant:
    def plant(rng: random.Random, files: Files) -> set[str]:
        record = _one(rng, files)
        place = _report(files[record])[part]
        place[name] = value(place.get(name)) if callable(value) else value
        return {record}

    return plant


def _in_block(kind: str, path: str, value: Any) -> Plant:
    def plant(rng: random.Random, files: Files) -> set[str]:
        record = _one(rng, files)
        *folders, last = path.split("/")
        place = _block(files[record], kind)
        for folder in folders:
            place = place[folder]
        place[last] = value(place.get(last)) if callable(value) else value
        return {record}

    return plant


def _on_blocks(plant: Plant) -> Plant:
    """A fault of SAEBench's files, planted in the blocks of combined records."""

    def planted(rng: random.Random, files: Files) -> set[str]:
        blocks = {
            f"{name}#{key}": block
            for name, record in files.items()
            for key, block in record.items()
            if "eval_type_id" in block
        }
        return {name.partition("#")[0] for name in plant(rng, blocks)}

    return planted


def _block_pasted(rng: random.Random, files: Files) -> set[str]:
    a, b = rng.sample(sorted(files), 2)
    key = next(k for k, v in files[a].items() if v.get("eval_type_id") == "scr")
    files[b][key] = copy.deepcopy(files[a][key])
    return {a, b}


def _no_wider(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    for block in files[name].values():
        if "sae_cfg_dict" in block:
            block["sae_cfg_dict"]["d_sae"] = block["sae_cfg_dict"]["d_in"]
    return {name}


def _same_block(kind: str) -> Plant:
    def plant(rng: random.Random, files: Files) -> set[str]:
        a, b = rng.sample(sorted(files), 2)
        source, target = _block(files[a], kind), _block(files[b], kind)
        for part in ("eval_result_details", "eval_result_metrics"):
            target[part] = copy.deepcopy(source[part])
        return {a, b}

    return plant


def _same_loss(rng: random.Random, files: Files) -> set[str]:
    a, b = rng.sample(sorted(files), 2)
    _report(files[b])["final_info"]["final_loss"] = _report(files[a])["final_info"]["final_loss"]
    return {a, b}


def _mislabelled(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    for block in files[name].values():
        if "sae_cfg_dict" in block:
            block["sae_cfg_dict"]["architecture"] = "JumpReLU"
    return {name}


def _too_soon(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    times = sorted(b["datetime_epoch_millis"] for b in files[name].values() if "eval_type_id" in b)
    block = _block(files[name], "unlearning")
    before = max(t for t in times if t < block["datetime_epoch_millis"])
    block["datetime_epoch_millis"] = before + 11_500
    return {name}


def _under_two_names(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    record = files[name]
    record["scr and tpp evaluation results"] = record.pop("scr evaluation results")
    del record["tpp evaluation results"]
    return {name}


def _lost_block(rng: random.Random, files: Files) -> set[str]:
    name = _one(rng, files)
    del files[name][rng.choice(["scr evaluation results", "unlearning evaluation results"])]
    return {name}


def _two_factors(rng: random.Random, files: Files) -> set[str]:
    names = [n for n, d in files.items() if _report(d)["config"]["ortho_weight"] == 0.1]
    for name in names:
        _report(files[name])["config"]["k"] = 33
    return set(names)


def _own_lr(rng: random.Random, files: Files) -> set[str]:
    names = [n for n, d in files.items() if _report(d)["config"]["ortho_weight"] == 0.1]
    for name in names:
        _report(files[name])["config"] |= {"lr": 0.0012, "wandb_name": "Idea"}
        _report(files[name])["final_info"]["learning_rate"] = 0.0012
    return set(names)


def _untold(rng: random.Random, files: Files) -> set[str]:
    a, b = rng.sample(sorted(files), 2)
    _report(files[b])["config"] = dict(_report(files[a])["config"])
    return {a, b}


def _one_seed(rng: random.Random, files: Files) -> set[str]:
    for name in [n for n, d in files.items() if _report(d)["config"]["seed"]]:
        del files[name]
    return set(files)


def _to_and_fro(rng: random.Random, files: Files) -> set[str]:
    names = sorted(files)
    name = names[rng.randrange(1, len(names) - 1)]
    _block(files[name], "core")["eval_config"]["dataset"] = "another"
    return set(names)


COMBINED: list[tuple[str, str, Plant]] = [
    ("F01", "identity", _same_block("absorption_first_letter")),
    ("F01", "identity", _same_block("scr")),
    ("F03", "identity", _in_report("final_info", "final_loss", lambda v: v * 9)),
    ("F04", "identity", _in_block("unlearning", "sae_cfg_dict/d_sae", 4608)),
    ("F05", "identity", _mislabelled),
    ("F07", "identity", _too_soon),
    ("F08", "identity", _same_loss),
    ("F09", "identity", _under_two_names),
    ("F13", "training", _in_report("final_info", "training_steps", 0)),
    ("F14", "training", _in_report("final_info", "layer", 99)),
    ("F20", "training", _in_report("config", "target_l0", 5.0)),
    ("F22", "confounds", _in_block("core", "eval_result_metrics/sparsity/l0", 7.3)),
    ("F23", "confounds", _two_factors),
    ("F24", "confounds", _own_lr),
    (
        "F25",
        "confounds",
        _in_block("core", "eval_result_metrics/model_behavior_preservation/kl_div_with_ablation", 7.0),
    ),
    ("F28", "confounds", _untold),
    ("F29", "confounds", _in_report("final_info", "learning_rate", 0.5)),
    ("F30", "confounds", _one_seed),
    ("F31", "coverage", _lost_block),
    ("F46", "semantics", _in_block("unlearning", "eval_config/multipliers", [1, 2])),
    ("F48", "infrastructure", _to_and_fro),
    ("F02", "identity", _on_blocks(_few_letters)),
    ("F06", "identity", _on_blocks(_half)),
    ("F10", "identity", _block_pasted),
    ("F11", "identity", _in_block("core", "sae_bench_commit_hash", "0" * 40)),
    ("F12", "identity", _in_block("core", "sae_cfg_dict/training_tokens", -100000)),
    ("F15", "training", _no_wider),
    ("F18", "training", _in_block("core", "eval_result_metrics/reconstruction_quality/explained_variance", -1.3)),
    ("F19", "training", _in_block("core", "eval_result_metrics/reconstruction_quality/mse", -1.0)),
    ("F26", "confounds", _in_block("core", "sae_cfg_dict/dataset_path", "Skylion007/openwebtext")),
    ("F33", "coverage", _on_blocks(_all_zero)),
    ("F40", "semantics", _in_block("core", "eval_config/batch_size_prompts", 8)),
    (
        "F41",
        "semantics",
        _in_block("core", "eval_result_metrics/reconstruction_quality/explained_variance_legacy", 0.7),
    ),
    ("F42", "semantics", _on_blocks(_tie)),
    ("F43", "semantics", _in_block("absorption_first_letter", "eval_result_details", lambda v: v[:-1])),
    ("F47", "infrastructure", _in_block("core", "eval_config/dataset", "")),
]


# What no generator plants, and why; `test_planted.py` holds that there is nothing else.

_NO_TRAINING = "SAEBench's files say nothing of training"
_ONE_SAE = "a record is of one SAE by its form: every evaluation has the record's sae_id and protocol"
NOT_SHOWN: dict[tuple[str, str], str] = {
    ("harness", "F02"): "our absorption refuses to give a number on too few letters: the record says `failed`",
    ("harness", "F04"): _ONE_SAE,
    ("harness", "F06"): "the LM's half of probing is an evaluation of its own: no row has two halves",
    ("harness", "F10"): "our evaluations have no id beside the record's key: F01 and F28 say it",
    ("harness", "F14"): _ONE_SAE,
    ("harness", "F32"): "records have no number in a series; what a stored suite lacks its manifest tells",
    ("harness", "F40"): "mse is per element by definition; beside SAEBench's it is told (test_semantics.py)",
    ("harness", "F41"): "one formula, and a version: F11 tells where versions differ",
    ("harness", "F42"): "our metrics are sums in double precision",
    ("harness", "F43"): "our absorption is over the letters that the LM alone fixes: the same for all SAEs",
    ("saebench", "F05"): _NO_TRAINING,
    ("saebench", "F07"): "files of one SAE are made in any order: the time between them is nobody's",
    **{("saebench", rule): _NO_TRAINING for rule in ("F08", "F17", "F20", "F23", "F24", "F29", "F30", "F49", "F50")},
    ("saebench", "F32"): "no runs in a row",
    ("saebench", "F34"): "SAEBench does not measure it",
    ("combined", "F17"): "needs a fact, the tokens a step (test_training.py)",
    ("combined", "F32"): "shown by what lies in the folder (test_coverage.py)",
    ("combined", "F34"): "SAEBench does not measure it",
    ("combined", "F49"): "such a record has steps and no budget in tokens",
    ("combined", "F50"): "such a record has no place for time and memory",
}
