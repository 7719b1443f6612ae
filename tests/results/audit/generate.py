"""Random sound record sets as JSON objects: our records, SAEBench's files, combined records. Name -> object."""

from __future__ import annotations

import copy
import random
import string
import uuid
from typing import Any

from harness.results.record import SCHEMA_VERSION

Files = dict[str, dict[str, Any]]

EVALUATIONS = ("absorption_first_letter", "scr", "tpp", "sparse_probing", "unlearning")
MINUTES = {"absorption_first_letter": 26, "scr": 6, "tpp": 2, "sparse_probing": 3, "unlearning": 10}


def sha(rng: random.Random) -> str:
    return f"{rng.getrandbits(256):064x}"


# Our own records: one suite, some methods, at least three seeds, one grid.


def harness_set(rng: random.Random) -> Files:
    d_in = rng.choice([64, 192, 576])
    protocol = {
        "suite": rng.choice(["tiny", "micro", "mine"]),
        "lm": "an LM",
        "lm_sha256": sha(rng),
        "tokenizer_sha256": sha(rng),
        "hookpoint": f"blocks.{rng.randrange(24)}.hook_resid_post",
        "d_in": d_in,
        "d_sae": d_in * rng.choice([4, 8, 32]),
        "n_tokens": rng.choice([100_000, 524_288]),
        "batch_size": rng.choice([512, 1024]),
        "train_data": sha(rng),
        "eval_data": sha(rng),
        "seq_len": 128,
        "store_dtype": "float32",
        "stream_seed": rng.randrange(9),
        "evaluation_seed": rng.randrange(9),
    }
    others = rng.sample(["relu", "jumprelu", "temporal"], rng.randrange(1, 4))
    grid = rng.choice([(8,), (8, 16), (16, 32, 48)])
    seconds, scale, lr = rng.uniform(2, 50), rng.uniform(0.005, 0.2), rng.choice([0.001, 0.003])
    shared = (protocol, seconds, scale, lr)
    files = {
        f"{method}/{k}-{seed}.json": _record(rng, method, k, seed, *shared)
        for method in ("topk", *others)
        for k in grid
        for seed in range(rng.choice([3, 4]))
    }
    _told_failures(rng, files)
    return files | _beside(rng, files)


def _told_failures(rng, files: Files) -> None:
    """What could not be measured, as a record says it: in all of a suite, or in one of them."""
    if rng.random() < 0.5:
        for record in files.values():
            record["evaluations"]["behaviour"] = {"status": "skipped", "reason": "needs a language model"}
    if rng.random() < 0.3:
        for record in files.values():
            record["evaluations"]["extra"] = {"status": "done", "wall_seconds": 1.0, "options": {"k": 5}}
            record["metrics"]["extra_score"] = {"value": rng.random(), "n": 9, "version": 1, "evaluator": "extra"}
        failed = files[rng.choice(sorted(files))]
        failed["evaluations"]["extra"] = {"status": "failed", "reason": "out of memory"}
        del failed["metrics"]["extra_score"]


def _beside(rng, files: Files) -> Files:
    """Sometimes what stands in a suite and is never ranked: a control, which is never trained and the same on each
    seed, and a preset with a published mistake, which may do anything."""
    found: Files = {}
    like = [r for n, r in files.items() if n.startswith("topk")]
    if rng.random() < 0.5:
        metrics = {"l0": like[0]["protocol"]["d_in"], "fvu": 0.0, "explained_variance": 1.0, "mse": 0.0, "cosine": 1.0}
        for seed in range(3):
            control = copy.deepcopy(like[seed % len(like)])
            control |= {"key": sha(rng), "sae_id": "1" * 64}
            control["method"] |= {"name": "identity", "architecture": "identity", "options": {}, "control": True}
            control["training"] |= {"seed": seed, "target_l0": None, "steps": 0, "tokens": 0, "wall_seconds": None}
            control["training"] |= {"final_loss": None, "final_terms": {}, "dead_latents": None}
            for name, value in metrics.items():
                control["metrics"][name]["value"] = value
            found[f"identity/{seed}.json"] = control
    if rng.random() < 0.5:
        for i, record in enumerate(like):
            faulty = copy.deepcopy(record)
            faulty |= {"key": sha(rng), "sae_id": sha(rng)}
            faulty["method"] |= {"preset": "as_published", "faulty": True}
            faulty["metrics"]["explained_variance"]["value"] = -rng.random()
            faulty["metrics"]["fvu"]["value"] = 1 - faulty["metrics"]["explained_variance"]["value"]
            faulty["training"]["final_loss"] *= 1.1
            found[f"topk@as_published/{i}.json"] = faulty
    return found


def _record(rng, method, k, seed, protocol, seconds, scale, lr) -> dict[str, Any]:
    architecture = "topk" if method == "temporal" else method
    driven = architecture != "topk"
    fvu, mse = rng.uniform(0.05, 0.6), rng.uniform(100, 2000)
    metrics = {
        "l0": k * rng.uniform(0.96, 1.04) if driven else float(k),
        "fvu": fvu,
        "explained_variance": 1 - fvu,
        "mse": mse,
        "cosine": rng.uniform(0.7, 0.99),
        "l2_ratio": rng.uniform(0.8, 1.0),
        "dead_latent_fraction": rng.uniform(0, 0.6),
    }
    stability = {"temporal_distance": rng.uniform(1.2, 1.8), "temporal_distance_shuffled": rng.uniform(1.81, 2.0)}
    terms = {"sse": mse * protocol["d_in"] * scale**2 * rng.uniform(0.86, 1.1)}
    terms["l1" if driven else "aux"] = rng.uniform(0.01, 0.2) * terms["sse"]
    prefix = "base." if method == "temporal" else ""
    options: dict[str, Any] = {f"{prefix}lr": lr, f"{prefix}grad_clip": 1.0}
    options |= {} if driven else {"sae.k": k}
    options |= {"strength": rng.choice([0.05, 0.1])} if method == "temporal" else {}
    steps = protocol["n_tokens"] // protocol["batch_size"]
    return {
        "key": sha(rng),
        "sae_id": sha(rng),
        "protocol": dict(protocol),
        "method": {
            "name": method,
            "preset": "",
            "distribution": "sae-harness",
            "version": "0.1.0",
            "architecture": architecture,
            "options": options,
            "code_sha256": "e" * 64,
        },
        "training": {
            "seed": seed,
            "target_l0": k,
            "steps": steps,
            "tokens": steps * protocol["batch_size"],
            "final_loss": sum(terms.values()),
            "final_terms": terms,
            "l0_reached": True if driven else None,
            "dead_latents": rng.randrange(protocol["d_sae"] // 2),
            "input_scale": scale,
            "wall_seconds": rng.uniform(5, 50),
            "peak_memory_mib": rng.uniform(500, 2000),
        },
        "metrics": {
            name: {"value": value, "n": 80, "version": 1, "evaluator": evaluator, "stderr": 0.01}
            for evaluator, values in (("core", metrics), ("stability", stability))
            for name, value in values.items()
        },
        "evaluations": {
            name: {"status": "done", "wall_seconds": seconds * rng.uniform(0.5, 2)} for name in ("core", "stability")
        },
        "provenance": {
            "harness_version": "0.1.0",
            "distributions": {"torch": "2.9.0"},
            "python": "3.11.2",
            "platform": "Linux x86_64",
            "device": "cpu",
            "threads": 1,
            "commit": "",
            "created": "2026-01-02T03:04:05Z",
            "suite_sha256": "f" * 64,
        },
        "schema_version": SCHEMA_VERSION,
    }


# SAEBench: architectures over one grid, each evaluated alike; one id an evaluation, as SAEBench does.


def saebench_set(rng: random.Random) -> Files:
    setting = _Setting(rng)
    architectures = rng.sample(["topk", "standard", "batch_topk", "jumprelu", "gated"], rng.randrange(2, 4))
    grid = [20.0, 40.0, 80.0, 160.0, 320.0][: rng.randrange(2, 6)]
    kinds = ["core", *rng.sample(EVALUATIONS, rng.randrange(1, 5))]
    files: Files = {}
    for architecture in architectures:
        for i, l0 in enumerate(grid):
            name = f"{architecture}_resid_post_layer_{setting.layer}_trainer_{i}"
            for kind in kinds:
                files[f"{kind}/{name}_eval_results.json"] = setting.block(rng, kind, name, architecture, l0)
    return files


class _Setting:
    """What all SAEs of a set share: model, layer, settings, the language model's own numbers."""

    def __init__(self, rng: random.Random, d_in: int = 2304, d_sae: int | None = None) -> None:
        self.layer = rng.randrange(2, 26)
        self.d_in, self.d_sae = d_in, d_sae or d_in * rng.choice([2, 7, 28])
        self.clean, self.ablated = rng.uniform(2, 4), rng.uniform(10, 13)
        self.kl = rng.uniform(8, 11)
        self.ids = {kind: str(uuid.UUID(int=rng.getrandbits(128))) for kind in ("core", *EVALUATIONS)}
        self.commit, self.time = f"{rng.getrandbits(160):040x}", 1.7e12 + rng.randrange(10**9)
        self.dtype = rng.choice(["float32", "bfloat16"])
        self.llm = [rng.uniform(0.6, 0.95) for _ in range(4)]
        self.prompts = rng.choice([16, 32])
        self.letters = "".join(sorted(rng.sample(string.ascii_lowercase, rng.randrange(20, 27))))

    def block(self, rng, kind: str, name: str, architecture: str, l0: float) -> dict[str, Any]:
        self.time += rng.uniform(1.0, 3.0) * 60_000 * MINUTES.get(kind, 9)
        metrics, details = getattr(self, f"_{kind.partition('_')[0]}")(rng, l0)
        return {
            "eval_type_id": kind,
            "eval_config": self._config(kind),
            "eval_id": self.ids[kind],
            "datetime_epoch_millis": int(self.time),
            "eval_result_metrics": metrics,
            "eval_result_details": details,
            "sae_bench_commit_hash": self.commit,
            "sae_lens_id": name,
            "sae_lens_release_id": "a_release",
            "sae_lens_version": "5.3.0",
            "sae_cfg_dict": {
                "model_name": "a-model",
                "d_in": self.d_in,
                "d_sae": self.d_sae,
                "hook_layer": self.layer,
                "hook_name": f"blocks.{self.layer}.hook_resid_post",
                "architecture": architecture,
                "dtype": "bfloat16",
                "device": "cuda",
                "training_tokens": 499_998_720,
                "dataset_path": "monology/pile-uncopyrighted",
            },
            "eval_result_unstructured": None,
        }

    def _config(self, kind: str) -> dict[str, Any]:
        config: dict[str, Any] = {"model_name": "a-model", "random_seed": 42, "llm_dtype": self.dtype}
        if kind == "core":
            config |= {"batch_size_prompts": self.prompts, "context_size": 128, "dataset": "Skylion007/openwebtext"}
            config |= {"n_eval_reconstruction_batches": 200}
        elif kind == "unlearning":
            config |= {"multipliers": [25, 50, 100, 200], "dataset_size": 1024}
        else:
            config |= {"train_set_size": 4000, "test_set_size": 1000}
        return config

    def _core(self, rng, l0: float):
        sae = rng.uniform(self.clean, self.ablated)
        kl = rng.uniform(0, self.kl)
        variance = rng.uniform(0.1, 0.99)
        return {
            "model_behavior_preservation": {
                "kl_div_score": (self.kl - kl) / self.kl,
                "kl_div_with_ablation": self.kl,
                "kl_div_with_sae": kl,
            },
            "model_performance_preservation": {
                "ce_loss_score": (self.ablated - sae) / (self.ablated - self.clean),
                "ce_loss_with_ablation": self.ablated,
                "ce_loss_with_sae": sae,
                "ce_loss_without_sae": self.clean,
            },
            "reconstruction_quality": {
                "explained_variance": variance,
                "mse": rng.uniform(0.1, 5),
                "cossim": rng.uniform(0.7, 0.99),
            },
            "shrinkage": {"l2_norm_in": 149.0, "l2_norm_out": rng.uniform(90, 149), "l2_ratio": rng.uniform(0.6, 1)},
            "sparsity": {"l0": l0 * rng.uniform(0.97, 1.03), "l1": rng.uniform(100, 900)},
        }, []

    def _absorption(self, rng, l0: float):
        rows = [
            {
                "first_letter": c,
                "num_absorption": rng.randrange(1, 60),
                "absorption_rate": rng.uniform(0, 0.2),
                "num_probe_true_positives": 500 + ord(c),
                "num_split_features": rng.randrange(1, 3),
            }
            for c in self.letters
        ]
        return {"mean": {"mean_absorption_score": rng.uniform(0.001, 0.1), "mean_num_split_features": 1.2}}, rows

    def _scr(self, rng, l0: float):
        return self._thresholds(rng, "scr", "scr_metric_threshold_{}")

    def _tpp(self, rng, l0: float):
        return self._thresholds(rng, "tpp", "tpp_threshold_{}_total_metric")

    def _thresholds(self, rng, name: str, pattern: str):
        rows = [{pattern.format(n): rng.uniform(0, 0.5) for n in (2, 5, 20, 500)} | {"dataset_name": d} for d in "ab"]
        return {f"{name}_metrics": {pattern.format(n): rng.uniform(0, 0.5) for n in (2, 5, 20, 500)}}, rows

    def _sparse(self, rng, l0: float):
        names = [f"{{}}_{t}test_accuracy" for t in ("", "top_1_", "top_2_", "top_5_")]
        # The language model's own probes move from run to run.
        llm = {n.format("llm"): v + rng.uniform(-0.01, 0.01) for n, v in zip(names, self.llm, strict=True)}
        rows = [{"dataset_name": d} | {n.format("sae"): rng.uniform(0.6, 0.99) for n in names} for d in "abc"]
        return {"llm": llm, "sae": {n.format("sae"): rng.uniform(0.6, 0.99) for n in names}}, rows

    def _unlearning(self, rng, l0: float):
        return {"unlearning": {"unlearning_score": rng.randrange(1, 60) / 534}}, []


# Combined records: two methods of one trainer that differ in one factor, on three seeds, evaluated one after another.


def combined_set(rng: random.Random) -> Files:
    setting = _Setting(rng, d_sae=18432)
    setting.dtype = "float32"
    lr, k = rng.choice([1e-4, 3e-4]), rng.choice([32, 80])
    kinds = ["core", *EVALUATIONS]
    return {
        f"run_{i}.json": _run(rng, setting, kinds, lr, k, weight, seed)
        for i, (weight, seed) in enumerate((w, s) for w in (0.0, 0.1) for s in range(3))
    }


def _run(rng, setting, kinds, lr, k, weight, seed) -> dict[str, Any]:
    blocks = {f"{_words(kind)} evaluation results": setting.block(rng, kind, "custom", "TopK", k) for kind in kinds}
    mse = blocks["core evaluation results"]["eval_result_metrics"]["reconstruction_quality"]["mse"]
    loss = mse * setting.prompts * 127 * rng.uniform(0.86, 1.2)
    return {
        f"training results for layer {setting.layer}": {
            "config": {
                "trainer_class": "TrainerTopK",
                "lr": lr,
                "steps": 4882,
                "seed": seed,
                "activation_dim": 2304,
                "dict_size": 18432,
                "k": k,
                "ortho_weight": weight,
                "layer": setting.layer,
                "lm_name": "a-model",
                "wandb_name": "TopK",
            },
            "final_info": {
                "training_steps": 4882,
                "final_loss": loss,
                "layer": setting.layer,
                "dict_size": 18432,
                "learning_rate": lr,
            },
        },
        **blocks,
    }


def _words(kind: str) -> str:
    return kind.removesuffix("_first_letter").replace("_", " ")
