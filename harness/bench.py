"""One suite on this machine: its data, its jobs, and the keys of all that is made for it.

Importing it loads no torch, and finding records that exist needs none: keys are made from files and specs alone.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .activations.keys import STORE_VERSION, store_inputs, world_inputs
from .activations.sources import LMSource, WorldSource, resolve_lm, resolve_text, resolve_world
from .artefacts.cache import Cache
from .artefacts.key import artefact_key, canonical_json, source_sha256
from .compute import Compute
from .config import Dtype, LMConfig, SuiteConfig, TextConfig, WorldConfig
from .data.labelled import collection_sha256
from .data.text_source import TextSource
from .errors import ConfigError
from .interfaces.specs import EvaluatorSpec, MetricSpec, Option
from .methods import Method
from .plugins import Catalogue, Provided
from .results.record import Protocol as RecordProtocol
from .results.record import Record

if TYPE_CHECKING:
    from .activations.language_model import LanguageModel
    from .activations.store import ActivationStore
    from .evaluation.texts import TextData
    from .training.fit import StepReport

TRAIN_VERSION = 1
"""Raised when the same inputs would train another SAE for a reason the code hashes do not see."""
RECORD_VERSION = 1
_TRAINING_CODE = (
    "training",
    "interfaces/batch.py",
    "interfaces/codes.py",
    "interfaces/sae.py",
    "interfaces/specs.py",
    "interfaces/trainer.py",
    "activations/samplers.py",
)
_EVALUATION_CODE = (
    "evaluation",
    "interfaces",
    "activations/hookpoints.py",
    "activations/language_model.py",
    "activations/loading.py",
    "activations/ragged.py",
    "data/labelled.py",
    "data/local_questions.py",
    "data/tables.py",
    "data/text_mix.py",
)


class Progress(Protocol):
    """Where a run tells what it does."""

    def note(self, text: str) -> None:
        """One line."""
        ...

    def capture(self, what: str, done: int, total: int) -> None:
        """Tokens captured; called first with what an earlier run left."""
        ...

    def step(self, report: StepReport, n_jobs: int) -> None:
        """One SAE made one step."""
        ...

    def evaluated(self, done: int, total: int, label: str) -> None:
        """One SAE was evaluated."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """One SAE of a run: its method, L0 and seed. Compared by identity: a run lists each job once."""

    method: Method
    target_l0: int | None
    seed: int

    @property
    def label(self) -> str:
        """As the progress display and errors name it."""
        at = "" if self.target_l0 is None else f" L0 {self.target_l0}"
        return f"{self.method.label}{at} seed {self.seed}"


class Bench:
    """One suite on this machine: its data, the catalogue and the cache."""

    def __init__(
        self, suite: SuiteConfig, catalogue: Catalogue, cache: Cache, *, compute: Compute | None = None
    ) -> None:
        self.suite, self.catalogue, self.cache = suite, catalogue, cache
        self.compute = compute or Compute()
        # Code is hashed once, before it is imported: an edit while a run goes on must not get the run's results.
        self._code: dict[tuple[str, Any], str] = {}

    @cached_property
    def lm_source(self) -> LMSource | WorldSource:
        """The LM's files with their hashes, or what stands for a world."""
        world = self.suite.world
        return self._lm_files if world is None else resolve_world(world)

    @cached_property
    def _lm_files(self) -> LMSource:
        return resolve_lm(self._lm_and_text[0], self.cache.root)

    @property
    def _lm_and_text(self) -> tuple[LMConfig, TextConfig]:
        lm, text = self.suite.lm, self.suite.text
        if lm is None or text is None:
            raise ConfigError(f"Suite {self.suite.name!r} is a synthetic world: it has no language model and no text.")
        return lm, text

    @cached_property
    def text_source(self) -> TextSource:
        """The text's files with their hash, and those of its mix. Raises ConfigError in a suite of a world."""
        return resolve_text(self._lm_and_text[1], self.collections)

    @cached_property
    def language_model(self) -> LanguageModel | None:
        """The LM, whose weights are read on first use; None in a suite of a world."""
        if self.suite.world is not None:
            return None
        from .activations.language_model import load_language_model

        return load_language_model(self._lm_and_text[0], self._lm_files, device=self.compute.device)

    @cached_property
    def text_data(self) -> TextData | None:
        """Labelled texts and the LM's activations of them; None in a suite of a world."""
        lm = self.language_model
        if lm is None:
            return None
        from .evaluation.texts import TextData

        config, text = self._lm_and_text
        return TextData(
            lm,
            hookpoint=self.suite.hookpoint,
            lm_identity={
                "lm": self.lm_source.weights_sha256,
                "dtype": config.dtype,
                "device": self.compute.kind,
            },
            collections=self.collections,
            cache=self.cache,
            prepend_bos=text.prepend_bos,
            mask_first=text.mask_first,
            trained_tables=text.trained_tables,
        )

    def tokens_key_inputs(self, split: Any) -> dict[str, Any]:
        """What the sequences of a split depend on."""
        if self.suite.world is not None:
            return self.store_key_inputs(split)
        from .data.text import token_inputs

        text = self.text_source
        return token_inputs(
            self._lm_and_text[1], text.sha256, self.lm_source.tokenizer_sha256, split, mix_sha256=text.mix_sha256
        )

    def store_key_inputs(self, split: Any) -> dict[str, Any]:
        """What the activations of a split depend on."""
        # Evaluation reads activations at full precision whatever training is stored in.
        dtype: Dtype = self.suite.store_dtype if split == "train" else "float32"
        if self.suite.world is not None:
            return world_inputs(self.suite.world, split, dtype)
        return store_inputs(
            weights_sha256=self.lm_source.weights_sha256,
            lm_dtype=self._lm_and_text[0].dtype,
            hookpoint=self.suite.hookpoint,
            tokens=self.tokens_key_inputs(split),
            dtype=dtype,
        )

    def store(self, split: Any, progress: Progress) -> ActivationStore:
        """The activations of a split, captured if need be; of a world generated, the held-out ones with their truth."""
        what = "training activations" if split == "train" else "held-out activations"
        seq_len = self.suite.seq_len

        def told(done: int, total: int) -> None:
            progress.capture(what, done * seq_len, total * seq_len)

        if self.suite.world is not None:
            return self._world_store(self.suite.world, split, told)
        from .activations.store import capture_activations, find_store
        from .data.text import tokenize

        inputs = self.store_key_inputs(split)
        if found := find_store(self.cache, inputs):
            return found
        lm = self.language_model
        assert lm is not None, "the suite is of no world"
        tokenized = tokenize(self._lm_and_text[1], self.text_source, lm, split, cache=self.cache)
        return capture_activations(
            lm,
            tokenized,
            self.suite.hookpoint,
            dtype=inputs["dtype"],
            cache=self.cache,
            progress=told,
        )

    def _world_store(self, world: WorldConfig, split: Any, progress: Callable[[int, int], None]) -> ActivationStore:
        from .activations.worlds import world_store

        dtype = self.store_key_inputs(split)["dtype"]
        return world_store(world, split, dtype=dtype, cache=self.cache, progress=progress)

    def protocol(self, d_in: int) -> RecordProtocol:
        """What every record of this suite shares."""
        suite = self.suite
        return RecordProtocol(
            suite=suite.name,
            lm=self.lm_source.name,
            lm_sha256=self.lm_source.weights_sha256,
            tokenizer_sha256=self.lm_source.tokenizer_sha256,
            hookpoint="as generated" if suite.world else suite.hookpoint,
            d_in=d_in,
            d_sae=suite.d_sae,
            n_tokens=suite.n_tokens,
            batch_size=suite.batch_size,
            train_data=artefact_key("tokens", self.tokens_key_inputs("train"), 1),
            eval_data=artefact_key("tokens", self.tokens_key_inputs("eval"), 1),
            seq_len=suite.seq_len,
            store_dtype=suite.store_dtype,
            stream_seed=suite.stream_seed,
            evaluation_seed=suite.evaluation_seed,
        )

    def jobs(self, method: Method) -> list[Job]:
        """The suite's grid for a method: L0 × seeds, or one of each where nothing varies.

        Raises:
            ConfigError: the method is a control that must be told the world, and the suite has none.
        """
        if "world" in method.needs:
            method = self._told(method)
        grid: tuple[int | None, ...] = self.suite.l0_grid if method.sparsity != "none" else (None,)
        return [Job(method=method, target_l0=l0, seed=seed) for l0 in grid for seed in self.suite.seeds]

    def _told(self, method: Method) -> Method:
        """The method with the world in its options, so that SAE, key and record depend on it as on any option."""
        if self.suite.world is None:
            raise ConfigError(
                f"{method.label} knows the true features, and suite {self.suite.name!r} has none: it is a control for "
                "suites of a synthetic world, such as world-tiny."
            )
        told = {**method.options, "world": canonical_json(self.suite.world)}
        return dataclasses.replace(method, options=told)

    def evaluators(self, method: Method) -> list[Provided[EvaluatorSpec]]:
        """The suite's evaluators that are installed, the default ones, and those of the method's own plugin."""
        available = self.catalogue.evaluators
        chosen: dict[str, Provided[EvaluatorSpec]] = {}
        for name in self.suite.evaluators:
            if name in available:
                chosen[name] = self.catalogue.evaluator(name)
        for name, provided in available.items():
            own = provided.distribution == method.distribution and method.distribution != "sae-harness"
            if provided.spec.default or own:
                chosen.setdefault(name, provided)
        return list(chosen.values())

    def metrics(self, names: Sequence[str] = ()) -> list[MetricSpec]:
        """Specs of all installed evaluators' metrics, the suite's evaluators' first.

        Raises:
            UnknownNameError: a name in `names` is no metric.
        """
        from .errors import UnknownNameError
        from .results.saebench_metrics import specs_of

        order = [*self.suite.evaluators, *self.catalogue.evaluators]
        specs: dict[str, MetricSpec] = {}
        for name in order:
            if name in self.catalogue.evaluators:
                for metric in self.catalogue.evaluators[name].spec.metrics:
                    specs.setdefault(metric.name, metric)
        specs |= {spec.name: spec for spec in specs_of([name for name in names if name not in specs])}
        for name in names:
            if name not in specs:
                raise UnknownNameError.of("metric", name, specs)
        return [specs[n] for n in names] if names else list(specs.values())

    def method_code(self, method: Method) -> str:
        """Hash of the method's source files as they were when this bench first asked."""
        targets = (method.spec.target, method.sae.target, method.base.target if method.base else "")
        return self._hashed("method", targets, method.code_sha256)

    def _hashed(self, what: str, name: Any, make: Callable[[], str]) -> str:
        if (what, name) not in self._code:
            self._code[what, name] = make()
        return self._code[what, name]

    def sae_inputs(self, job: Job) -> dict[str, Any]:
        """What a trained SAE depends on."""
        suite, method = self.suite, job.method
        return {
            "method": method.spec.name,
            "base": method.base.name if method.base else "",
            "architecture": method.sae.name,
            # Without a base the option is a mistake: it must not find the records of those who did not make it.
            "options": {k: v for k, v in method.options.items() if k != "base" or method.base is None},
            "base_options": dict(method.base_options),
            "target_l0": job.target_l0,
            "seed": job.seed,
            "d_sae": suite.d_sae,
            "n_tokens": suite.n_tokens,
            "batch_size": suite.batch_size,
            "dead_after_fraction": suite.dead_after_fraction,
            "stream_seed": suite.stream_seed,
            "store": self.store_key_inputs("train"),
            "store_version": STORE_VERSION,
            "method_code": self.method_code(method),
            "training_code": self._hashed("training", "", lambda: source_sha256("harness", only=_TRAINING_CODE)),
            "device": self.compute.kind,
            "precision": self.compute.precision,
        }

    def record_inputs(self, job: Job) -> dict[str, Any]:
        """What a record depends on: the SAE, the evaluators and the held-out data."""
        return {
            "sae": self.sae_inputs(job),
            "preset": job.method.preset,
            "evaluators": {
                p.spec.name: self._hashed("evaluator", p.spec.target, partial(evaluator_code, p.spec))
                for p in self.evaluators(job.method)
            },
            "listed": list(self.suite.evaluators),
            **self._texts_inputs(self.evaluators(job.method)),
            **self._evaluator_options_inputs(job.method),
            **self._twin_inputs(job),
            **self._judge_inputs(job.method),
            "held_out": self.store_key_inputs("eval"),
            "evaluation_seed": self.suite.evaluation_seed,
        }

    def evaluator_options(self, evaluator: str) -> Mapping[str, Option]:
        """What the suite sets for an evaluator."""
        return self.suite.evaluator_options.get(evaluator, {})

    def twin_of(self, job: Job) -> Job | None:
        """The job of the suite's next seed; None where there is no other, or no evaluator looks at it."""
        seeds = self.suite.seeds
        if len(seeds) < 2 or job.seed not in seeds:
            return None
        if not any("twin" in provided.spec.needs for provided in self.evaluators(job.method)):
            return None
        return dataclasses.replace(job, seed=seeds[(seeds.index(job.seed) + 1) % len(seeds)])

    def _twin_inputs(self, job: Job) -> dict[str, Any]:
        twin = self.twin_of(job)
        return {} if twin is None else {"twin": self.sae_inputs(twin)}

    def _judge_inputs(self, method: Method) -> dict[str, Any]:
        """Which judge answers, where one is asked and the suite's options leave it to the environment."""
        if not any(p.spec.name == "autointerp" for p in self.evaluators(method)):
            return {}
        return {"judge": [os.environ.get(f"SAE_HARNESS_JUDGE_{name}", "") for name in ("URL", "MODEL", "LOCAL")]}

    def _evaluator_options_inputs(self, method: Method) -> dict[str, Any]:
        found = {p.spec.name: dict(self.evaluator_options(p.spec.name)) for p in self.evaluators(method)}
        given = {name: options for name, options in found.items() if options}
        return {"evaluator_options": given} if given else {}

    @property
    def collections(self) -> Path:
        """The folder of fetched labelled texts."""
        return self.cache.root / "labelled"

    def _texts_inputs(self, evaluators: Sequence[Provided[EvaluatorSpec]]) -> dict[str, Any]:
        """Hashes of the collections that evaluators read: a record made without one is made anew once it is there."""
        specs = [provided.spec for provided in evaluators]
        names = sorted({name for spec in specs for name in spec.reads(self.evaluator_options(spec.name))})
        return {"texts": {name: collection_sha256(self.collections, name) for name in names}} if names else {}

    def find_record(self, job: Job) -> Record | None:
        """The job's record, if it was made before."""
        folder = self.cache.find("record", self.record_inputs(job), RECORD_VERSION)
        return None if folder is None else Record.load(folder / "record.json")


def evaluator_code(spec: EvaluatorSpec) -> str:
    """Hash of an evaluator's source and of ours that it rests on."""
    only = ("builtin/evaluators",) if spec.target.startswith("harness.") else None
    parts = [source_sha256(spec.target, only=only), source_sha256("harness", only=_EVALUATION_CODE)]
    return artefact_key("code", {"sources": parts}, 1)
