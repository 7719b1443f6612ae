"""Synthetic SAEBench files: one of every kind, in the structure of sae-bench 0.6, numbers drawn from field names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

NS, KS = (2, 5, 10, 20, 50, 100, 500), (1, 2, 5, 10, 20, 50, 100)


def figure(field: str) -> float:
    """A number in (0, 1) that is this field's alone."""
    return int(hashlib.sha256(field.encode()).hexdigest()[:12], 16) / 16**12


def _figures(*fields: str) -> dict[str, float]:
    return {field: figure(field) for field in fields}


METRICS: dict[str, dict[str, dict[str, Any]]] = {
    "core": {
        "model_behavior_preservation": {"kl_div_score": 0.75, "kl_div_with_ablation": 8.0, "kl_div_with_sae": 2.0},
        "model_performance_preservation": {
            "ce_loss_score": 0.875,
            "ce_loss_with_ablation": 11.0,
            "ce_loss_with_sae": 4.0,
            "ce_loss_without_sae": 3.0,
        },
        "reconstruction_quality": _figures("explained_variance", "explained_variance_legacy", "mse", "cossim"),
        "shrinkage": _figures("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
        "sparsity": _figures("l0", "l1"),
        "token_stats": {"total_tokens_eval_reconstruction": 20480, "total_tokens_eval_sparsity_variance": 2048},
        "misc_metrics": _figures(
            *("freq_over_1_percent", "freq_over_10_percent"),
            *("normalized_freq_over_1_percent", "normalized_freq_over_10_percent"),
            *("average_max_encoder_cosine_sim", "average_max_decoder_cosine_sim", "frac_alive"),
        ),
    },
    "absorption_first_letter": {
        "mean": _figures(
            *("mean_absorption_fraction_score", "mean_full_absorption_score", "mean_num_split_features"),
            *("std_dev_absorption_fraction_score", "std_dev_full_absorption_score", "std_dev_num_split_features"),
        )
    },
    "autointerp": {"autointerp": _figures("autointerp_score", "autointerp_std_dev")},
    "ravel": {"ravel": _figures("disentanglement_score", "cause_score", "isolation_score")},
    "scr": {
        "scr_metrics": _figures(*(f"scr_{w}_threshold_{n}" for n in NS for w in ("dir1", "metric", "dir2"))),
    },
    "tpp": {
        "tpp_metrics": _figures(
            *(
                f"tpp_threshold_{n}_{w}"
                for n in NS
                for w in ("total_metric", "intended_diff_only", "unintended_diff_only")
            )
        )
    },
    "sparse_probing": {
        "llm": _figures("llm_test_accuracy", *(f"llm_top_{k}_test_accuracy" for k in KS)),
        "sae": _figures("sae_test_accuracy", *(f"sae_top_{k}_test_accuracy" for k in KS)),
    },
    "sparse_probing_sae_probes": {
        "llm": _figures("llm_test_accuracy", "llm_test_auc", "llm_test_f1"),
        "sae": {
            "sae_test_accuracy": None,
            **_figures(*(f"sae_top_{k}_test_{w}" for k in KS for w in ("accuracy", "auc", "f1"))),
        },
    },
    "unlearning": {"unlearning": _figures("unlearning_score")},
    "meta_structure_decoder_variance": {
        "meta_structure": {
            **_figures("decoder_fraction_variance_explained", "final_reconstruction_mse"),
            "train_time_seconds": 31.0,
        }
    },
}
"""`eval_type_id` -> group -> field -> number."""

NO_RESULT = {
    *("kl_div_with_ablation", "ce_loss_with_ablation", "ce_loss_without_sae", "l2_norm_in"),
    *("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance", "train_time_seconds"),
    *("llm_test_accuracy", "llm_test_auc", "llm_test_f1", *(f"llm_top_{k}_test_accuracy" for k in KS)),
}
"""Fields that say nothing of the SAE: the LM's own numbers, counts of tokens, time."""


def block(kind: str, *, sae: str = "a_release/topk_16k/0", **changes: Any) -> dict[str, Any]:
    """One file of a kind; `sae` is RELEASE/ID."""
    release, _, sae_id = sae.partition("/")
    config: dict[str, Any] = {"model_name": "a-model", "random_seed": 42, "llm_dtype": "float32"}
    if kind == "core":
        config |= {"batch_size_prompts": 32, "context_size": 64, "dataset": "Skylion007/openwebtext"}
    if kind == "absorption_first_letter":
        config |= {"min_GT_probe_f1": 0.6, "min_feats_for_eval": 20}
    return {
        "eval_type_id": kind,
        "eval_config": config,
        "eval_id": f"id of {kind}",
        "datetime_epoch_millis": 1_700_000_000_000,
        "eval_result_metrics": METRICS[kind],
        "eval_result_details": [],
        "sae_bench_commit_hash": "ab" * 20,
        "sae_lens_id": sae_id,
        "sae_lens_release_id": release,
        "sae_lens_version": "6.0.0",
        "sae_cfg_dict": {
            "model_name": "a-model",
            "d_in": 64,
            "d_sae": 1024,
            "hook_layer": 3,
            "hook_name": "blocks.3.hook_resid_post",
            "architecture": "topk",
            "training_tokens": 500_000,
        },
        "eval_result_unstructured": None,
        **changes,
    }


def write(folder: Path, *blocks: dict[str, Any]) -> Path:
    """One file for each block; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(blocks):
        (folder / f"{data['eval_type_id']}_{number}.json").write_text(json.dumps(data))
    return folder
