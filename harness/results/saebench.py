"""Records as SAEBench's result JSON: one file for each kind of evaluation, in the structure of sae-bench 0.6.

Only numbers that follow SAEBench's definition are written, under SAEBench's names: those of our evaluators'
`saebench_` metrics, those that an imported record had from SAEBench, and of the core evaluation `l0`, `cosine` and
`l2_ratio`, whose definition is the same. A field that the structure requires and the record does not hold is never made
up: then the kind is refused. So `core` is written where the evaluator saebench_core was run, and `sparse_probing` where
saebench_sparse_probing was.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .. import __version__
from ..errors import RecordError
from .imported import MADE_HERE, TAINTED_HERE
from .record import MetricEntry, Record
from .saebench_metrics import known_as, measured_as
from .side import method_label

MADE_BY = f"none: made by sae-harness {__version__}"
"""Stands for the commit of SAEBench, which did not run."""
_NS = (2, 5, 10, 20, 50, 100, 500)
_KS = (1, 2, 5, 10, 20, 50, 100)
_PROMPTS = 16
"""Sequences of a batch: as `saebench_core` has them."""
_TOP = re.compile(r"sae_top_(\d+)_test_accuracy\Z")
_DETAIL = "_results"
"""What SAEBench puts after the name of a data set in the rows of its details."""
_LAYER = re.compile(r"blocks\.(\d+)\.")

Groups = Mapping[str, Mapping[str, bool]]
"""Group -> field -> whether the structure requires a number there."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of evaluation of sae-bench 0.6."""

    type_id: str
    groups: Groups
    refused: str = ""
    """Why no file of this kind is ever written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What a record gives."""

    files: Mapping[str, dict[str, Any]]
    """Kind -> JSON object."""
    refused: Mapping[str, str]
    """Kind -> why it is not written though the record holds some of it, or it was asked for."""
    left_out: Mapping[str, tuple[str, ...]]
    """Evaluator -> metrics that have another definition than SAEBench's, or no field in its files; where kinds were
    asked for, of the evaluators that they are made from."""


def _group(name: str, *fields: str, required: bool = True) -> dict[str, dict[str, bool]]:
    return {name: dict.fromkeys(fields, required)}


KINDS: Mapping[str, Kind] = {
    "core": Kind(
        "core",
        {
            **_group("model_behavior_preservation", "kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"),
            **_group(
                "model_performance_preservation",
                *("ce_loss_score", "ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae"),
            ),
            **_group("reconstruction_quality", "explained_variance", "explained_variance_legacy", "mse", "cossim"),
            **_group("shrinkage", "l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
            **_group("sparsity", "l0", "l1"),
            **_group("token_stats", "total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"),
            **_group(
                "misc_metrics",
                *("freq_over_1_percent", "freq_over_10_percent"),
                *("normalized_freq_over_1_percent", "normalized_freq_over_10_percent"),
                *("average_max_encoder_cosine_sim", "average_max_decoder_cosine_sim", "frac_alive"),
            ),
        },
    ),
    "absorption": Kind(
        "absorption_first_letter",
        _group(
            "mean",
            *("mean_absorption_fraction_score", "mean_full_absorption_score", "mean_num_split_features"),
            *("std_dev_absorption_fraction_score", "std_dev_full_absorption_score", "std_dev_num_split_features"),
        ),
    ),
    "scr": Kind(
        "scr",
        _group(
            "scr_metrics",
            *(f"scr_{what}_threshold_{n}" for n in _NS for what in ("dir1", "metric", "dir2")),
            required=False,
        ),
    ),
    "tpp": Kind(
        "tpp",
        _group(
            "tpp_metrics",
            *(
                f"tpp_threshold_{n}_{what}"
                for n in _NS
                for what in ("total_metric", "intended_diff_only", "unintended_diff_only")
            ),
            required=False,
        ),
    ),
    "sparse_probing": Kind(
        "sparse_probing",
        {
            "llm": {"llm_test_accuracy": True, **{f"llm_top_{k}_test_accuracy": False for k in _KS}},
            "sae": {"sae_test_accuracy": False, **{f"sae_top_{k}_test_accuracy": False for k in _KS}},
        },
    ),
    "unlearning": Kind("unlearning", _group("unlearning", "unlearning_score")),
    "ravel": Kind("ravel", _group("ravel", "disentanglement_score", "cause_score", "isolation_score")),
    "autointerp": Kind("autointerp", _group("autointerp", "autointerp_score", "autointerp_std_dev")),
    "sparse_probing_sae_probes": Kind(
        "sparse_probing_sae_probes",
        {
            **_group("llm", *(f"llm_test_{score}" for score in ("accuracy", "auc", "f1")), required=False),
            **_group(
                "sae",
                "sae_test_accuracy",
                *(f"sae_top_{k}_test_{score}" for k in _KS for score in ("accuracy", "auc", "f1")),
                required=False,
            ),
        },
    ),
    "meta_structure_decoder_variance": Kind(
        "meta_structure_decoder_variance",
        _group(
            "meta_structure",
            *("decoder_fraction_variance_explained", "final_reconstruction_mse", "train_time_seconds"),
        ),
    ),
    "mdl": Kind(
        "mdl",
        {},
        "sae-bench 0.6 has no structure for it, and what its code measures depends on the scale of activations",
    ),
}
"""Our name of the kind -> its structure, as the classes of sae-bench 0.6 demand it."""

_SPREADS = {
    "std_dev_absorption_fraction_score": "mean_absorption_fraction_score",
    "std_dev_full_absorption_score": "mean_full_absorption_score",
    "std_dev_num_split_features": "mean_num_split_features",
    "autointerp_std_dev": "autointerp_score",
}
"""A spread over letters or latents -> the mean whose standard error times the root of n it is."""


_COUNTED = "total_tokens_"
"""How fields begin that the structure requires whole numbers in."""


def export(record: Record, kinds: Sequence[str] = (), *, allow_tainted: bool = False) -> Exported:
    """The record's SAEBench files: of `kinds`, by default of all that it can fill.

    Raises:
        RecordError: a kind is none of SAEBench's, or the record does not say when it was made.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise RecordError(f"SAEBench has no evaluation {unknown[0]!r}: its kinds are {', '.join(KINDS)}.")
    files: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    used: set[str] = set()
    for name, kind in KINDS.items():
        if kinds and name not in kinds:
            continue
        held = _held(record, name, kind)
        used |= {metric for metric, _ in held.values()}
        reason = _obstacle(record, name, kind, held, asked=bool(kinds), allow_tainted=allow_tainted)
        if reason:
            refused[name] = reason
        elif held:
            files[name] = _file(record, name, kind, held)
    left_out: dict[str, list[str]] = {}
    asked = {record.metrics[metric].evaluator for metric in used}
    for metric, entry in record.metrics.items():
        if metric not in used and (not kinds or entry.evaluator in asked):
            left_out.setdefault(entry.evaluator, []).append(metric)
    return Exported(files=files, refused=refused, left_out={k: tuple(v) for k, v in left_out.items()})


def file_name(record: Record, kind: str) -> str:
    """`KIND/RELEASE_ID_eval_results.json`, as SAEBench sorts its results."""
    release, sae_id = _release(record), _sae_id(record)
    return f"{KINDS[kind].type_id}/{release}_{sae_id}_eval_results.json".replace("@", "-")


def _held(record: Record, name: str, kind: Kind) -> dict[str, tuple[str, MetricEntry]]:
    """Field -> the record's metric of that definition."""
    found: dict[str, tuple[str, MetricEntry]] = {}
    for field in (field for fields in kind.groups.values() for field in fields):
        spec = known_as(name, field)
        for metric in (spec.name if spec is not None else "", measured_as(name, field)):
            entry = record.metrics.get(metric)
            if entry is not None:
                found[field] = (metric, entry)
                break
    return found


def _value(field: str, held: Mapping[str, tuple[str, MetricEntry]]) -> float | None:
    """What is written into a field; None where the record does not hold it."""
    if field in held:
        value = held[field][1].value
        return int(value) if field.startswith(_COUNTED) else value
    mean = held.get(_SPREADS.get(field, ""))
    if mean is None or mean[1].stderr is None or mean[1].n < 2:
        return None
    return mean[1].stderr * math.sqrt(mean[1].n)


def _obstacle(
    record: Record,
    name: str,
    kind: Kind,
    held: Mapping[str, tuple[str, MetricEntry]],
    *,
    asked: bool,
    allow_tainted: bool,
) -> str:
    """Why there is no such file; empty where there is one, or where nothing is held and nothing was asked for."""
    if kind.refused:
        given = any(metric.startswith(f"saebench_{name}_") for metric in record.metrics)
        return kind.refused if asked or given else ""
    if not held:
        return "the record holds no metric of its definition" if asked else ""
    taints = _taints(record, held)
    if taints and not allow_tainted:
        told = "; ".join(f"{rule}: {reason}" for rule, reason in taints)
        return f"tainted ({told}); --allow-tainted writes it, marked"
    required = [field for fields in kind.groups.values() for field, needed in fields.items() if needed]
    missing = [field for field in required if _value(field, held) is None]
    if missing:
        shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        return f"SAEBench's structure requires numbers that the record does not hold: {shown}"
    return ""


def _taints(record: Record, held: Mapping[str, tuple[str, MetricEntry]]) -> list[tuple[str, str]]:
    """(rule, reason) of the evaluations that these metrics are of."""
    evaluators = {entry.evaluator for _, entry in held.values()}
    return [(t.rule, t.reason) for t in record.taints if not t.evaluator or t.evaluator in evaluators]


def _file(record: Record, name: str, kind: Kind, held: Mapping[str, tuple[str, MetricEntry]]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model_name": record.protocol.lm,
        "random_seed": record.protocol.evaluation_seed,
        "sae_harness_record": record.key,
        "sae_harness_suite": record.protocol.suite,
        MADE_HERE: [[f, metric, e.version, e.n, e.stderr] for f, (metric, e) in held.items()],
    }
    config |= _config_of(record, name, held)
    if record.provenance.source:
        config["sae_harness_source"] = record.provenance.source
    taints = _taints(record, held)
    if taints:
        config[TAINTED_HERE] = [list(taint) for taint in taints]
    return {
        "eval_type_id": kind.type_id,
        "eval_config": config,
        "eval_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"sae-harness:{record.key}:{name}")),
        "datetime_epoch_millis": _millis(record),
        "eval_result_metrics": {
            group: {field: _value(field, held) for field in fields} for group, fields in kind.groups.items()
        },
        "eval_result_details": _details(held) if name == "sparse_probing" else [],
        "sae_bench_commit_hash": MADE_BY,
        "sae_lens_id": _sae_id(record),
        "sae_lens_release_id": _release(record),
        "sae_lens_version": None,
        "sae_cfg_dict": _sae_config(record),
        "eval_result_unstructured": None,
    }


def _config_of(record: Record, name: str, held: Mapping[str, tuple[str, MetricEntry]]) -> dict[str, Any]:
    """What SAEBench's config of the kind says of the data: its classes would take its own defaults for what is not
    said."""
    if name == "core" and (total := held.get(f"{_COUNTED}eval_reconstruction")):
        length = record.protocol.seq_len
        n_batches = math.ceil(total[1].value / (_PROMPTS * length))
        computed = ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics")
        featurewise = ("featurewise_density_statistics", "featurewise_weight_based_metrics")
        return {
            "dataset": record.protocol.eval_data,
            "batch_size_prompts": _PROMPTS,
            "context_size": length,
            "n_eval_reconstruction_batches": n_batches,
            "n_eval_sparsity_variance_batches": n_batches,
            **{f"compute_{what}": True for what in (*computed, *featurewise)},
        }
    sizes = record.metrics.get("probing_classes")
    if name == "sparse_probing" and sizes is not None and sizes.detail:
        train, test = (int(max(column)) for column in zip(*sizes.detail.values(), strict=True))
        options = record.evaluations[sizes.evaluator].options
        length = options.get("max_tokens")
        return {
            "dataset_names": [detail["dataset_name"].removesuffix(_DETAIL) for detail in _details(held)],
            "probe_train_set_size": train,
            "probe_test_set_size": test,
            "k_values": sorted(int(k[1]) for k in map(_TOP.match, held) if k),
            **({"context_length": length + 1} if isinstance(length, int) else {}),
        }
    return {}


def _details(held: Mapping[str, tuple[str, MetricEntry]]) -> list[dict[str, Any]]:
    """The fields' values on each data set, where all of them hold those of the same."""
    given = {field: entry.detail or {} for field, (_, entry) in held.items()}
    names = {tuple(detail) for detail in given.values()}
    if len(names) != 1:
        return []
    [sets] = names
    return [
        {"dataset_name": f"{own}{_DETAIL}", **{field: sum(d[own]) / len(d[own]) for field, d in given.items()}}
        for own in sets
    ]


def _release(record: Record) -> str:
    return f"sae-harness_{record.protocol.suite}_{method_label(record)}"


def _sae_id(record: Record) -> str:
    at = "" if record.training.target_l0 is None else f"l0-{record.training.target_l0}_"
    return f"{at}seed-{record.training.seed}_{record.key[:12]}"


def _sae_config(record: Record) -> dict[str, Any]:
    protocol = record.protocol
    layer = _LAYER.match(protocol.hookpoint)
    told = {"training_tokens": record.training.tokens} if record.training.tokens > 0 else {}
    return {
        "model_name": protocol.lm,
        "d_in": protocol.d_in,
        "d_sae": protocol.d_sae,
        "hook_layer": int(layer[1]) if layer else None,
        "hook_name": protocol.hookpoint,
        "architecture": record.method.architecture,
        **told,
        "sae_sha256": record.sae_id,
    }


def _millis(record: Record) -> int:
    """When the record was made, milliseconds since 1970.

    Raises:
        RecordError: it does not say.
    """
    created = record.provenance.created
    try:
        return int(datetime.fromisoformat(created.replace("Z", "+00:00")).timestamp() * 1000)
    except ValueError:
        raise RecordError(
            f"Record {record.key[:12]} of {method_label(record)} does not say when it was made ({created!r}): "
            "SAEBench's structure requires it."
        ) from None
