"""Checks of analyses, on planted data with a small SAE. Each raises ConformanceError.

An analysis that cannot look at these data says so by DataError (or NotEvaluatedError), in words; what it gives where it
can is held to everything below. One whose spec plants the tables it reads can, and must find something.
"""

from __future__ import annotations

import importlib.util
import json
import math
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import ConformanceError, DataError, HarnessError
from ..interfaces.analysis import Analysis, AnalysisResult, Bars, Dendrogram, Graph, HeatMap, Reference, TrainingLog
from ..interfaces.sae import SAE
from ..interfaces.specs import AnalysisSpec, TrainerSpec
from ..methods import effective_options
from ..plugins import Catalogue, Provided
from .bench import MethodBench, require
from .fixtures import random_sae, tiny_store
from .observed import Observed, Uncounted, global_seed, random_states
from .texts import Rows, planted_rows

N_SEQUENCES = 96
"""So many that an SAE's latents fire often enough for what is counted latent by latent."""
BATCH_TOLERANCE = 1e-4
"""As of evaluators: relative."""


class Subject(NamedTuple):
    """An SAE with the log of its training."""

    sae: SAE
    log: TrainingLog


class _Worldless(Observed):
    """A context of which no true features are known, and which notes the tables that are asked for."""

    def __init__(self, rows: Rows) -> None:
        self.asked: set[str] = set()
        super().__init__(batch_sequences=32, language_model=True, rows=rows, n_sequences=N_SEQUENCES)
        self._truth = None

    def table(self, name: str) -> tuple[Mapping[str, Any], ...]:
        """The planted rows."""
        self.asked.add(name)
        return super().table(name)


class AnalysisBench:
    """Runs one analysis on planted data: 32 documents of 3 sequences."""

    def __init__(self, provided: Provided[AnalysisSpec], catalogue: Catalogue) -> None:
        self.provided = provided
        self.catalogue = catalogue

    @property
    def spec(self) -> AnalysisSpec:
        """What it declares."""
        return self.provided.spec

    @property
    def needs_language_model(self) -> bool:
        """Whether it may run the LM."""
        return "language_model" in self.spec.needs

    @cached_property
    def method(self) -> Provided[TrainerSpec] | None:
        """Whose SAE is looked at: the first it is for, else the first that its distribution trains."""
        if self.spec.methods:
            return next((t for t in self.catalogue.trainers.values() if t.spec.name in self.spec.methods), None)
        own = (t for t in self.catalogue.trainers.values() if t.distribution == self.provided.distribution)
        return next((t for t in own if t.spec.trained), None)

    @cached_property
    def subject(self) -> Subject:
        """A trained SAE with its log; a random one without where there is no such method."""
        if self.method is None:
            return self.stranger()
        bench = MethodBench(self.catalogue, self.method.qualified, label=f"analysis:{self.spec.name}")
        trainer, _ = bench.build()
        facts = {
            "options": effective_options(trainer, bench.result.sae),
            "seed": 0,
            "steps": bench.result.steps,
            "tokens": bench.result.tokens,
            "log": bench.result.log,
        }
        return Subject(bench.trained_sae(), TrainingLog.of(facts, method=self.method.spec.name))

    def stranger(self) -> Subject:
        """A random SAE of which nothing is known."""
        return Subject(random_sae(), TrainingLog())

    @cached_property
    def rows(self) -> Rows | None:
        """What gives the planted rows of its tables; None where it names nothing."""
        return planted_rows(self.spec)

    def context(self, batch_sequences: int = 32, *, language_model: bool = True) -> Observed:
        """A new context; with a language model that spares those who can do without."""
        return Observed(
            batch_sequences=batch_sequences, language_model=language_model, rows=self.rows, n_sequences=N_SEQUENCES
        )

    def run(self, context: Observed | None = None, subject: Subject | None = None) -> AnalysisResult:
        """As the core does: without gradient and in eval mode, with a reference where it takes one.

        Raises:
            DataError: it says that it cannot look at these.
        """
        subject = subject or self.subject
        loaded = self.provided.load()
        run: Any = loaded
        if isinstance(loaded, type) and issubclass(loaded, Analysis):
            analysis = loaded()
            other = random_sae(1)
            if analysis.compares:
                analysis.reference = Reference(label="random", sae=other, training=TrainingLog(seed=1))
            run = analysis.run
        context = self.context() if context is None else context
        with torch.no_grad(), context.keeping_codes(subject.sae):
            result = run(subject.sae.eval(), context, subject.log)
            on = torch.is_grad_enabled()
        require(
            not on, "The analysis leaves gradients switched on: use `with torch.enable_grad():` around what needs them."
        )
        require(
            isinstance(result, AnalysisResult),
            f"{self.spec.target} gave a {type(result).__name__}: an analysis gives an AnalysisResult.",
        )
        return result

    def attempt(self, context: Observed | None = None) -> AnalysisResult | None:
        """The result; None where it says that it cannot look at these data, which one whose tables are planted may
        not."""
        try:
            return self.run(context)
        except DataError as error:
            self.allow(error)
            return None

    def allow(self, error: DataError) -> None:
        """Raises ConformanceError where what it reads is planted, so that there is nothing it could lack."""
        if self.spec.planted:
            raise ConformanceError(
                f"Analysis {self.spec.name!r} finds nothing ({error}), though {self.spec.planted} plants the tables it "
                "reads: give rows that it can look at, or let it do with fewer."
            ) from error


def spec_is_complete(bench: AnalysisBench) -> None:
    """A summary, a target that can be run, methods that exist, and planted rows of nothing but what it reads."""
    spec = bench.spec
    unread = bool(spec.planted) and not spec.texts
    require(not unread, f"Analysis {spec.name!r} has `planted` and reads no table: name it in the spec's `texts`.")
    require(bool(spec.summary.strip()), f"Analysis {spec.name!r} has no summary.")
    loaded = bench.provided.load()
    sound = issubclass(loaded, Analysis) if isinstance(loaded, type) else callable(loaded)
    require(sound, f"{spec.target} is neither a subclass of harness.Analysis nor a function.")
    known = {provided.spec.name for provided in bench.catalogue.trainers.values()}
    unknown = sorted(set(spec.methods) - known)
    require(not unknown, f"Analysis {spec.name!r} is for SAEs of {', '.join(unknown)}, which no plugin provides.")


def it_finds_something_finite_or_says_why_not(bench: AnalysisBench) -> None:
    """On a trained SAE with its log, and on one of which nothing is known, plain finite values come back, or DataError
    with a reason. On the first no DataError is taken where its tables are planted."""
    subjects = {"a trained SAE": bench.subject}
    if not bench.spec.methods:
        subjects["an SAE without a log"] = bench.stranger()
    for what, subject in subjects.items():
        try:
            result = bench.run(subject=subject)
        except DataError as error:
            require(bool(str(error).strip()), f"On {what} the analysis raises DataError without a reason: say why.")
            if subject is bench.subject:
                bench.allow(error)
            continue
        except ConformanceError:
            raise
        except Exception as error:
            raise ConformanceError(
                f"On {what} the analysis raises {type(error).__name__} ({error}): raise DataError, with a reason, "
                "where the data or the log do not allow it."
            ) from error
        try:
            json.dumps(result.to_json(), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConformanceError(f"On {what} the result is no plain JSON ({error}).") from error
        empty = not (result.values or result.series or result.tables)
        require(not empty, f"On {what} the analysis finds nothing and does not say why: raise DataError.")


def its_figures_can_be_drawn(bench: AnalysisBench) -> None:
    """Every axis says what it shows, and every figure is drawn where matplotlib is installed."""
    result = bench.attempt()
    if result is None:
        return
    for figure in result.figures:
        require(bool(figure.title.strip()), f"Figure {figure.name!r} has no title.")
        for panel in figure.panels:
            bare = any(isinstance(mark, (Graph, Dendrogram)) for mark in panel.marks)
            where = f"Panel {panel.title!r} of figure {figure.name!r}"
            require(bare or bool(panel.y_label), f"{where} does not say what its y axis shows.")
            named = bool(panel.x_label) or bare or all(isinstance(mark, Bars) for mark in panel.marks)
            require(named, f"{where} does not say what its x axis shows.")
            unsaid = any(isinstance(mark, HeatMap) and not mark.colour_label for mark in panel.marks)
            require(not unsaid, f"{where} does not say what its colours mean.")
    if importlib.util.find_spec("matplotlib") is None:
        return
    from ..report.figures import render_figure

    with tempfile.TemporaryDirectory() as folder:
        for figure in result.figures:
            try:
                render_figure(figure, Path(folder))
            except HarnessError as error:
                raise ConformanceError(f"Figure {figure.name!r} cannot be drawn: {error}") from error


def the_sae_is_left_as_it_was(bench: AnalysisBench) -> None:
    """Weights, training mode and requires_grad of the SAE are as before."""
    sae = bench.subject.sae
    weights = {name: value.clone() for name, value in sae.state_dict().items()}
    bench.attempt()
    for name, value in sae.state_dict().items():
        require(torch.equal(value, weights[name]), f"The analysis changes {name} of the SAE: work on a copy.")
    modes = [module.training for module in sae.modules()] + [p.requires_grad for p in sae.parameters()]
    require(not any(modes), "The analysis leaves the SAE in training mode or requiring gradients.")


def the_data_are_left_as_they_were(bench: AnalysisBench) -> None:
    """Tokens, mask, documents and activations are not edited: the next analysis looks at them."""
    context, untouched = bench.context(), tiny_store(1, n_sequences=N_SEQUENCES)
    bench.attempt(context)
    store = context.store
    for name in ("tokens", "mask", "document"):
        same = torch.equal(getattr(store, name), getattr(untouched, name))
        require(same, f"The analysis edits the {name} of the data: work on a copy.")
    same = torch.equal(store.sequences(0, N_SEQUENCES), untouched.sequences(0, N_SEQUENCES))
    require(same, "The analysis edits the activations of the data: work on a copy.")


def grad_mode_and_random_state_are_left_as_they_were(bench: AnalysisBench) -> None:
    """Gradients stay off, and the generators of torch, numpy and random are not drawn from nor seeded."""
    before = random_states()
    bench.attempt()
    for name, state in random_states().items():
        require(
            state == before[name],
            f"The analysis uses the global random state of {name}: use context.generator(purpose).",
        )


def the_same_result_comes_twice(bench: AnalysisBench) -> None:
    """Two runs agree to the bit, in one context and in two, whatever the global random state."""
    context = bench.context()
    with global_seed(1):
        first = bench.attempt(context)
    with global_seed(2):
        others = {"in the same context": bench.attempt(context), "in a new context": bench.attempt()}
    for where, again in others.items():
        if first is None or again is None:
            require(
                first is again, f"The analysis finds something once and, run again {where}, nothing, or the reverse."
            )
            continue
        wanted, found = _flat(first), _flat(again)
        other = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        require(
            not other,
            f"{', '.join(other[:5])} differ when the analysis is run again {where}: draw random numbers from "
            "context.generator(purpose), and keep no state between runs.",
        )


def values_do_not_depend_on_the_batch_size(bench: AnalysisBench) -> None:
    """Batches of 96, 32 and 7 sequences give the same values."""
    whole = bench.attempt(bench.context(N_SEQUENCES))
    for size in (32, 7):
        found = bench.attempt(bench.context(size))
        if whole is None or found is None:
            require(whole is found, f"Whether the analysis finds anything depends on batches of {size} sequences.")
            continue
        for name, value in whole.values.items():
            require(
                _close(value, found.values.get(name)),
                f"{name} is {value!r} in batches of {N_SEQUENCES} sequences and {found.values.get(name)!r} in batches "
                f"of {size}: add up sums over tokens and divide at the end, do not average batches.",
            )


def empty_data_are_refused(bench: AnalysisBench) -> None:
    """Without sequences, and without a counted token, an analysis that looks at them raises DataError."""
    for what, masked in (("there are no sequences", False), ("every token is masked", True)):
        context = Uncounted(language_model=bench.needs_language_model, masked=masked)
        try:
            bench.run(context)
        except DataError:
            continue
        except Exception as error:
            raise ConformanceError(
                f"Where {what}, the analysis raises {type(error).__name__} ({error}): raise DataError."
            ) from error
        require(not context.asked, f"Where {what}, the analysis gives a result all the same: raise DataError.")


def the_language_model_is_used_as_declared(bench: AnalysisBench) -> None:
    """Where the spec does not need `language_model`, the analysis finds something without one too."""
    if bench.needs_language_model or bench.attempt() is None:
        return
    try:
        bench.run(bench.context(language_model=False))
    except DataError as error:
        raise ConformanceError(
            f"Analysis {bench.spec.name!r} fails where there is no language model ({error}): declare "
            "needs={'language_model'}, or leave out what it is needed for and say so in a note."
        ) from error


def its_planted_tables_are_read(bench: AnalysisBench) -> None:
    """With no world to look at instead, one whose tables are planted finds something, and reads what it declares."""
    if bench.rows is None or "world" in bench.spec.needs:
        return
    context = _Worldless(bench.rows)
    bench.attempt(context)
    undeclared = sorted(context.asked - set(bench.spec.texts))
    require(
        not undeclared, f"The analysis reads {', '.join(undeclared)}: name every table it reads in the spec's `texts`."
    )
    require(bool(context.asked), "The analysis reads none of its planted tables: drop the spec's `planted`.")


ANALYSIS_CHECKS = (
    spec_is_complete,
    it_finds_something_finite_or_says_why_not,
    its_planted_tables_are_read,
    its_figures_can_be_drawn,
    the_sae_is_left_as_it_was,
    the_data_are_left_as_they_were,
    grad_mode_and_random_state_are_left_as_they_were,
    the_same_result_comes_twice,
    values_do_not_depend_on_the_batch_size,
    empty_data_are_refused,
    the_language_model_is_used_as_declared,
)


def _flat(result: AnalysisResult) -> Mapping[str, Any]:
    """Everything but the figures, by name."""
    found: dict[str, Any] = {f"value {name}": value for name, value in result.values.items()}
    found |= {f"series {name}": list(values) for name, values in result.series.items()}
    found |= {f"table {name}": [list(row) for row in table.rows] for name, table in result.tables.items()}
    return found | {"notes": list(result.notes)}


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=BATCH_TOLERANCE, abs_tol=BATCH_TOLERANCE / 10)
    return a == b
