"""Each check of analyses catches an analysis that is broken in just that way."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from harness.errors import ConformanceError, DataError, NotEvaluatedError
from harness.interfaces.analysis import Analysis, AnalysisResult, Bars, Figure, HeatMap, Line, Panel


class Sound(Analysis):
    """Mean L0, over batches of any size."""

    def run(self, sae, context, training):
        total, n = 0, 0
        for part in context.encoded(sae):
            total += len(part.codes.latents)
            n += len(part.rows)
        if n == 0:
            raise DataError("no tokens")
        panel = Panel(marks=(Line(x=[0, 1], y=[0.0, total / n]),), x_label="x", y_label="L0")
        figure = Figure(name="look", title="A look", panels=(panel,))
        return AnalysisResult(values={"l0": total / n}, figures=(figure,), notes=(f"steps: {training.steps}",))


def test_a_sound_analysis_passes_everything(kit):
    kit.analysis(Sound)
    checks = kit.checks()
    assert {check.spec for check in checks} == {"analysis:look"}
    for check in checks:
        check()


def test_a_function_passes_too(kit):
    def look(sae, context, training):
        return Sound().run(sae, context, training)

    kit.analysis(look)
    for check in kit.checks():
        check()


def test_one_for_a_method_looks_at_an_sae_it_trained_with_its_log(kit):
    seen = []

    class OfMethod(Sound):
        def run(self, sae, context, training):
            seen.append((training.method, training.seed, training.steps, sae.config.architecture))
            assert training.column("l0")[0]
            assert "lr" in training.options
            return super().run(sae, context, training)

    kit.analysis(OfMethod, methods=("topk",)).run("it_finds_something_finite_or_says_why_not")
    assert seen == [("topk", 0, 60, "topk")]


def test_one_that_compares_gets_a_reference(kit):
    class Compares(Sound):
        compares = True

        def run(self, sae, context, training):
            assert self.reference.sae is not sae
            return super().run(sae, context, training)

    kit.analysis(Compares).run("it_finds_something_finite_or_says_why_not")


class Unable(Sound):
    def run(self, sae, context, training):
        raise NotEvaluatedError("not evaluated: too few latents fire")


def test_one_that_cannot_look_and_says_why_passes(kit):
    kit.analysis(Unable)
    for check in kit.checks():
        check()


def rows_of_one(name):
    """The function that a spec names in `planted`: one row."""
    return [{"text": "1 2 3", "table": name}]


class Reads(Sound):
    """Rows of its table: one in the planted world."""

    table = "one"

    def run(self, sae, context, training):
        rows = context.table(self.table)
        found = super().run(sae, context, training)
        return AnalysisResult(values={**found.values, "rows": len(rows)}, figures=found.figures)


class ReadsAnother(Reads):
    table = "two"


class ReadsNothing(Sound):
    pass


class WantsMore(Reads):
    def run(self, sae, context, training):
        if len(context.table(self.table)) < 2:
            raise NotEvaluatedError("not evaluated: 1 row, 2 are needed")
        return super().run(sae, context, training)


PLANTED = {"texts": ("one",), "planted": "classes_under_test:rows_of_one", "needs": frozenset({"language_model"})}


def test_planted_tables_are_given(kit):
    found = []

    class Tells(Reads):
        def run(self, sae, context, training):
            result = super().run(sae, context, training)
            found.append((result.values["rows"], context.table("one")[0]["table"]))
            return result

    kit.module.rows_of_one = rows_of_one
    kit.analysis(Tells, **PLANTED)
    for check in kit.checks():
        check()
    assert set(found) == {(1, "one")}


def test_a_table_that_nothing_plants_may_be_missing(kit):
    kit.analysis(Reads, texts=("one",), needs=frozenset({"language_model"}))
    for check in kit.checks():
        check()


@pytest.mark.parametrize("check", ["it_finds_something_finite_or_says_why_not", "the_same_result_comes_twice"])
def test_one_whose_tables_are_planted_must_find_something(kit, check):
    kit.module.rows_of_one = rows_of_one
    with pytest.raises(ConformanceError, match=r"finds nothing \(not evaluated: 1 row, 2 are needed\), though"):
        kit.analysis(WantsMore, **PLANTED).run(check)


@pytest.mark.parametrize(
    ("broken", "message"),
    [(ReadsAnother, "reads two: name every table"), (ReadsNothing, "reads none of its planted tables")],
)
def test_planted_tables_are_those_that_are_read(kit, broken, message):
    kit.module.rows_of_one = rows_of_one
    with pytest.raises(ConformanceError, match=message):
        kit.analysis(broken, **PLANTED).run("its_planted_tables_are_read")


def test_rows_of_no_table_are_refused(kit):
    with pytest.raises(ConformanceError, match="reads no table"):
        kit.analysis(Sound, planted=PLANTED["planted"]).run("spec_is_complete")


class Silent(Sound):
    def run(self, sae, context, training):
        raise DataError("")


class Crashes(Sound):
    def run(self, sae, context, training):
        raise IndexError("4")


class Nothing(Sound):
    def run(self, sae, context, training):
        return AnalysisResult()


class Bare(Sound):
    def run(self, sae, context, training):
        return {"l0": 1.0}


class Tensors(Sound):
    def run(self, sae, context, training):
        return AnalysisResult(values={"l0": torch.tensor(1.0)})  # type: ignore[dict-item]


class Unlabelled(Sound):
    def run(self, sae, context, training):
        panel = Panel(marks=(Line(x=[0, 1], y=[0.0, 1.0]),), title="a panel", x_label="x")
        return AnalysisResult(values={"x": 1}, figures=(Figure(name="look", title="t", panels=(panel,)),))


class Colourless(Sound):
    def run(self, sae, context, training):
        panel = Panel(marks=(HeatMap(rows=[[1.0]], colour_label=""),), x_label="x", y_label="y")
        return AnalysisResult(values={"x": 1}, figures=(Figure(name="look", title="t", panels=(panel,)),))


class Hides(Sound):
    def run(self, sae, context, training):
        bars = Bars(categories=["a"], heights=[0.0])
        panel = Panel(marks=(bars,), x_label="x", y_label="y", y_scale="log")
        return AnalysisResult(values={"x": 1}, figures=(Figure(name="look", title="t", panels=(panel,)),))


class EditsWeights(Sound):
    def run(self, sae, context, training):
        for parameter in sae.parameters():
            parameter.mul_(2)
        return super().run(sae, context, training)


class LeavesTraining(Sound):
    def run(self, sae, context, training):
        sae.train()
        return super().run(sae, context, training)


class EditsData(Sound):
    def run(self, sae, context, training):
        for batch in context.batches():
            batch.tokens.zero_()
        return super().run(sae, context, training)


class SwitchesGradientsOn(Sound):
    def run(self, sae, context, training):
        torch.set_grad_enabled(True)
        return super().run(sae, context, training)


class Draws(Sound):
    def run(self, sae, context, training):
        return AnalysisResult(series={"x": torch.rand(3).tolist()})


class AveragesBatches(Sound):
    def run(self, sae, context, training):
        means = [float(part.rows[0].norm()) for part in context.encoded(sae) if len(part.rows)]
        if not means:
            raise DataError("no tokens")
        return AnalysisResult(values={"x": sum(means) / len(means)})


class Invents(Sound):
    def run(self, sae, context, training):
        n = sum(len(part.rows) for part in context.encoded(sae))
        return AnalysisResult(values={"n": n})


class NeedsLM(Sound):
    def run(self, sae, context, training):
        context.clean_losses()
        return super().run(sae, context, training)


class NotOne:
    pass


@pytest.mark.parametrize(
    ("broken", "check", "message"),
    [
        (NotOne, "spec_is_complete", "neither a subclass of harness.Analysis nor a function"),
        (Silent, "it_finds_something_finite_or_says_why_not", "without a reason"),
        (Crashes, "it_finds_something_finite_or_says_why_not", r"raises IndexError \(4\)"),
        (Nothing, "it_finds_something_finite_or_says_why_not", "finds nothing and does not say why"),
        (Bare, "it_finds_something_finite_or_says_why_not", "gave a dict"),
        (Tensors, "it_finds_something_finite_or_says_why_not", "no plain JSON"),
        (Unlabelled, "its_figures_can_be_drawn", "does not say what its y axis shows"),
        (Colourless, "its_figures_can_be_drawn", "what its colours mean"),
        (EditsWeights, "the_sae_is_left_as_it_was", "changes W_enc|changes W_dec|changes b_"),
        (LeavesTraining, "the_sae_is_left_as_it_was", "training mode"),
        (EditsData, "the_data_are_left_as_they_were", "edits the tokens"),
        (SwitchesGradientsOn, "grad_mode_and_random_state_are_left_as_they_were", "gradients switched on"),
        (Draws, "grad_mode_and_random_state_are_left_as_they_were", "random state of torch"),
        (Draws, "the_same_result_comes_twice", "series x differ"),
        (AveragesBatches, "values_do_not_depend_on_the_batch_size", "x is .* in batches of 96"),
        (Invents, "empty_data_are_refused", "gives a result all the same"),
        (NeedsLM, "the_language_model_is_used_as_declared", "declare needs"),
    ],
)
def test_what_is_broken_is_caught(kit, broken, check, message):
    with pytest.raises(ConformanceError, match=message):
        kit.analysis(broken).run(check)


def test_methods_must_exist(kit):
    with pytest.raises(ConformanceError, match="is for SAEs of topkk, which no plugin provides"):
        kit.analysis(Sound, methods=("topkk",)).run("spec_is_complete")


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="figures are an optional extra")
def test_a_figure_that_cannot_be_drawn_is_caught(kit):
    with pytest.raises(ConformanceError, match=r"'look' cannot be drawn: .* not positive"):
        kit.analysis(Hides).run("its_figures_can_be_drawn")
