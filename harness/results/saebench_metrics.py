"""SAEBench's metrics as this harness names them: every published definition under a name of its own.

`explained_variance`, `mse` and absorption changed their meaning between releases under one name. Here each meaning has
its name, none is that of a metric of ours, and so no two are ever set beside each other by mistake. Where one of our
evaluators measures by SAEBench's definition, `measured` says under which name.

Kinds and fields are those of sae-bench 0.6, `mdl` (which it still writes in its old form) and those of January 2025.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..interfaces.specs import Better, MetricSpec

_SAEBENCH = "Karvonen et al. 2025, arXiv:2503.09532 (SAEBench)"


@dataclass(frozen=True, slots=True)
class _Known:
    name: str
    better: Better
    formula: str
    bounds: tuple[float | None, float | None] = (None, None)
    measured: str = ""
    """The metric of our evaluators that has this definition; empty where none has."""


_CORE: Mapping[str, _Known] = {
    # Tokens that are special are left out here as in our own: the one name that both share.
    "l0": _Known("l0", "none", "mean number of latents that are not 0, over all tokens", (0.0, None), "l0"),
    "l1": _Known("saebench_l1", "none", "mean sum of codes, over all tokens", (0.0, None)),
    "explained_variance_legacy": _Known(
        "saebench_explained_variance_legacy",
        "higher",
        "mean over tokens of 1 - |x - x_hat|^2 / |x - mean|^2, the mean over the tokens of a batch",
        (None, 1.0),
    ),
    "explained_variance": _Known(
        "saebench_explained_variance_corrected",
        "higher",
        "1 - |x - x_hat|^2 over a total in which E[x^2] stands where E[x] is meant: nearly the uncentred share, and "
        "not comparable with explained_variance; above 1 where activations are large",
    ),
    "mse_per_element": _Known(
        "saebench_mse", "lower", "mean of (x - x_hat)^2 per element, from SAEBench's sum over a batch", (0.0, None)
    ),
    "cossim": _Known("saebench_cosine", "higher", "mean cosine of x and x_hat", (-1.0, 1.0), "cosine"),
    "l2_norm_out": _Known("saebench_l2_norm_out", "none", "mean of |x_hat|", (0.0, None)),
    "l2_ratio": _Known("saebench_l2_ratio", "none", "mean of |x_hat| / |x|, ideal 1", (0.0, None), "l2_ratio"),
    "relative_reconstruction_bias": _Known(
        "saebench_relative_reconstruction_bias", "none", "sum |x_hat|^2 / sum x.x_hat, ideal 1, mean over batches"
    ),
    "kl_div_with_sae": _Known("saebench_kl_with_sae", "lower", "mean KL(clean || SAE), nats a token", (0.0, None)),
    "ce_loss_with_sae": _Known("saebench_ce_with_sae", "lower", "mean loss with the SAE, nats a token", (0.0, None)),
    "kl_div_score": _Known(
        "saebench_kl_score", "higher", "(KL_zero - KL_sae) / KL_zero, means of batches", (None, 1.0)
    ),
    "ce_loss_score": _Known(
        "saebench_ce_score", "higher", "(CE_zero - CE_sae) / (CE_zero - CE_clean), means of batches"
    ),
    "frac_alive": _Known(
        "saebench_alive_fraction", "higher", "share of the latents above 0 on a token of the evaluation", (0.0, 1.0)
    ),
    **{
        f"freq_over_{n}_percent": _Known(
            f"saebench_share_over_{n}_percent",
            "none",
            f"share of the latents above 0 on over {n} % of tokens",
            (0.0, 1.0),
        )
        for n in (1, 10)
    },
    **{
        f"normalized_freq_over_{n}_percent": _Known(
            f"saebench_firings_over_{n}_percent",
            "none",
            f"share of all firings that fall on latents above 0 on over {n} % of tokens",
            (0.0, 1.0),
        )
        for n in (1, 10)
    },
    **{
        f"average_max_{part}_cosine_sim": _Known(
            f"saebench_max_{part}_cosine", "none", f"largest cosine with another latent's {part} row, mean", (-1.0, 1.0)
        )
        for part in ("encoder", "decoder")
    },
}
_ABSORPTION: Mapping[str, _Known] = {
    "mean_absorption_score": _Known(
        "saebench_absorption_rate",
        "lower",
        "January 2025: absorbed over probe-positive words, mean over letters; letters without an error drop out",
        (0.0, 1.0),
    ),
    "mean_absorption_fraction_score": _Known(
        "saebench_mean_absorption_fraction",
        "lower",
        "share of the probe's projection in absorbers, mean over letters, as 0.6 defines it",
        (0.0, 1.0),
        "saebench_absorption_fraction",
    ),
    "mean_absorption_fraction_score_early": _Known(
        "saebench_mean_absorption_fraction_early",
        "lower",
        "share of the probe's projection in absorbers as releases before 0.6 define it, mean over all 26 letters",
        (0.0, 1.0),
    ),
    "mean_full_absorption_score": _Known(
        "saebench_mean_full_absorption",
        "lower",
        "rate of words absorbed in full, mean over letters",
        (0.0, 1.0),
        "saebench_full_absorption",
    ),
    "mean_num_split_features": _Known(
        "saebench_mean_split_latents",
        "none",
        "latents a k-sparse probe needs for a letter, mean over letters",
        (0.0, None),
        "saebench_split_latents",
    ),
    **{
        f"std_dev_{field}": _Known(f"saebench_std_{name}", "none", f"spread over letters of the {what}", (0.0, None))
        for field, name, what in (
            ("absorption_fraction_score", "absorption_fraction", "absorption fraction"),
            ("full_absorption_score", "full_absorption", "rate of full absorption"),
            ("num_split_features", "split_latents", "number of split latents"),
        )
    },
}
_SINGLE: Mapping[str, Mapping[str, _Known]] = {
    "unlearning": {
        "unlearning_score": _Known(
            "saebench_unlearning_score",
            "higher",
            "largest drop of WMDP accuracy over the sweep at retained accuracy of at least 0.99, on the same questions",
            measured="saebench_unlearning_score",
        )
    },
    "autointerp": {
        "autointerp_score": _Known(
            "saebench_autointerp_score",
            "higher",
            "accuracy of detection by a judge",
            (0.0, 1.0),
            "saebench_autointerp_score",
        ),
        "autointerp_std_dev": _Known(
            "saebench_std_autointerp", "none", "spread over latents of the accuracy of detection", (0.0, None)
        ),
    },
    "ravel": {
        f"{name}_score": _Known(
            f"saebench_ravel_{name}_score",
            "higher",
            f"{name} as SAEBench reports it",
            (0.0, 1.0),
            f"saebench_ravel_{name}",
        )
        for name in ("disentanglement", "cause", "isolation")
    },
    "meta_structure_decoder_variance": {
        "decoder_fraction_variance_explained": _Known(
            "saebench_meta_variance_explained",
            "lower",
            "share of the variance of decoder rows that a meta-SAE explains, on the rows it was trained on",
            (None, 1.0),
        ),
        "final_reconstruction_mse": _Known(
            "saebench_meta_mse", "higher", "squared error of that meta-SAE, on the same rows", (0.0, None)
        ),
    },
    "sparse_probing": {
        "sae_test_accuracy": _Known(
            "saebench_probing_full",
            "higher",
            "test accuracy of a probe on all latents, its epoch chosen on the test texts",
            (0.0, 1.0),
            "saebench_probing_sae_accuracy",
        )
    },
    "sparse_probing_sae_probes": {
        "sae_test_accuracy": _Known(
            "saebench_sae_probes_full_accuracy", "higher", "accuracy of a probe on all latents, last token", (0.0, 1.0)
        )
    },
}
_TPP_PARTS: Sequence[tuple[str, str, Better]] = (("intended", "own", "higher"), ("unintended", "others'", "lower"))
_SWEPT: Sequence[tuple[str, re.Pattern[str], _Known]] = (
    (
        "scr",
        re.compile(r"scr_metric_threshold_(\d+)\Z"),
        _Known("saebench_scr_metric_n{}", "higher", "SCR with N latents ablated, {}", measured="saebench_scr_n{}"),
    ),
    *(
        (
            "scr",
            re.compile(rf"scr_dir{way}_threshold_(\d+)\Z"),
            _Known(
                f"saebench_scr_metric_dir{way}_n{{}}",
                "higher",
                f"SCR in direction {way} with N latents ablated, {{}}",
                measured=f"saebench_scr_dir{way}_n{{}}",
            ),
        )
        for way in (1, 2)
    ),
    (
        "tpp",
        re.compile(r"tpp_threshold_(\d+)_total_metric\Z"),
        _Known("saebench_tpp_total_n{}", "higher", "TPP with N latents ablated, {}", measured="saebench_tpp_n{}"),
    ),
    *(
        (
            "tpp",
            re.compile(rf"tpp_threshold_(\d+)_{part}_diff_only\Z"),
            _Known(f"saebench_tpp_{part}_n{{}}", better, f"{what} drop of TPP with N latents ablated, {{}}"),
        )
        for part, what, better in _TPP_PARTS
    ),
    (
        "sparse_probing",
        re.compile(r"sae_top_(\d+)_test_accuracy\Z"),
        _Known(
            "saebench_probing_top{}",
            "higher",
            "accuracy of a probe on the k latents of largest class difference, {}",
            (0.0, 1.0),
            "saebench_probing_sae_top{}_accuracy",
        ),
    ),
    *(
        (
            "sparse_probing_sae_probes",
            re.compile(rf"sae_top_(\d+)_test_{score}\Z"),
            _Known(
                f"saebench_sae_probes_{score}_top{{}}",
                "higher",
                f"{score} of a probe on the k latents of largest class difference, last token, {{}}",
                (0.0, 1.0),
            ),
        )
        for score in ("accuracy", "auc", "f1")
    ),
    (
        "mdl",
        re.compile(r"description_length_(\d+_\d+)\Z"),
        _Known(
            "saebench_mdl_{}",
            "lower",
            "sum over latents of the entropy of firing and of activations in bins of equal width, bins_k {}; bins span "
            "at least 100 whatever the scale and k has no part in it",
        ),
    ),
    (
        "mdl",
        re.compile(r"mse_loss_(\d+_\d+)\Z"),
        _Known("saebench_mdl_mse_{}", "lower", "squared error with codes put into these bins, bins_k {}", (0.0, None)),
    ),
)
_TABLES: Mapping[str, Mapping[str, _Known]] = {"core": _CORE, "absorption": _ABSORPTION, **_SINGLE}
_COMPARED = frozenset(
    {
        "saebench_explained_variance_legacy",
        "saebench_kl_score",
        "saebench_ce_score",
        "saebench_absorption_rate",
        "saebench_mean_absorption_fraction",
        "saebench_mean_absorption_fraction_early",
        "saebench_mean_full_absorption",
        "saebench_probing_top1",
        "saebench_probing_top5",
        "saebench_probing_full",
        "saebench_scr_metric_n20",
        "saebench_tpp_total_n20",
        "saebench_unlearning_score",
        "saebench_autointerp_score",
        "saebench_ravel_disentanglement_score",
    }
)


def known_as(evaluation: str, metric: str) -> MetricSpec | None:
    """The spec of one of SAEBench's metrics; None for what is no result of an SAE (the LM's own losses, token counts).

    `evaluation` is the kind (`core`, `absorption`, …); what changed its meaning under one name comes as the caller has
    resolved it: `explained_variance_legacy`, `mse_per_element`, `mean_absorption_fraction_score_early`. `mdl`, which
    has one row for each pair of bins and k, comes as `description_length_BINS_K` and `mse_loss_BINS_K`.
    """
    found = _found(evaluation, metric)
    return None if found is None else _spec(found)


def measured_as(evaluation: str, metric: str) -> str:
    """The metric of our evaluators that follows the definition of one of SAEBench's; empty where none does.

    Of the LM's own numbers too, and of the `mse` that falls with the size of the batch.
    """
    found = _found(evaluation, metric)
    if found is not None and found.measured:
        return found.measured
    if evaluation == "core":
        return _OF_CORE.format(_TOTALS.get(metric, metric)) if metric in _CORE or metric in _LM_CORE else ""
    probe = _PROBE.match(metric) if evaluation == "sparse_probing" else None
    return "" if probe is None else f"saebench_probing_llm_{probe[1] or ''}accuracy".replace("top_", "top")


_OF_CORE = "saebench_core_{}"
_TOTALS: Mapping[str, str] = dict.fromkeys(
    ("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"), "total_tokens"
)
_LM_CORE = frozenset(
    {"kl_div_with_ablation", "ce_loss_with_ablation", "ce_loss_without_sae", "l2_norm_in", "mse", *_TOTALS}
)
"""What `known_as` does not know, and `saebench_core` measures."""
_PROBE = re.compile(r"llm_(top_\d+_)?test_accuracy\Z")


def specs_of(names: Iterable[str]) -> list[MetricSpec]:
    """Specs of the metrics of these names that are SAEBench's, reconstruction first."""
    fixed = {k.name: k for table in (_CORE, *_SINGLE.values(), _ABSORPTION) for k in table.values()}
    wanted = set(names) - {"l0"}
    first = ["saebench_explained_variance_legacy", *fixed]
    found = [_spec(fixed[name]) for name in dict.fromkeys(first) if name in wanted]
    for _, _, known in _SWEPT:
        head = known.name.partition("{}")[0]
        ends = [end for name in wanted if name.startswith(head) and _END.match(end := name[len(head) :])]
        found += [_spec(_filled(known, end)) for end in sorted(ends, key=lambda end: [*map(int, end.split("_"))])]
    return found


_END = re.compile(r"\d+(_\d+)?\Z")


def _found(evaluation: str, metric: str) -> _Known | None:
    found = _TABLES.get(evaluation, {}).get(metric)
    if found is not None:
        return found
    for kind, pattern, known in _SWEPT:
        match = pattern.match(metric) if kind == evaluation else None
        if match:
            return _filled(known, match[1])
    return None


def _filled(known: _Known, end: str) -> _Known:
    filled = (text.replace("{}", end) for text in (known.name, known.formula, known.measured))
    name, formula, measured = filled
    return replace(known, name=name, formula=formula, measured=measured)


def _spec(known: _Known) -> MetricSpec:
    return MetricSpec(
        name=known.name,
        better=known.better,
        formula=known.formula,
        bounds=known.bounds,
        reference=_SAEBENCH,
        compared=known.name in _COMPARED,
    )
