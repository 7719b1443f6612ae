"""The bars show loss terms, L0, dead latents and the time left, on stderr alone."""

from __future__ import annotations

import click
import pytest
import tqdm

from harness.cli.progress import BarProgress
from harness.training.fit import StepReport


def report(step: int, n_steps: int = 4, label: str = "topk L0 8 seed 0") -> StepReport:
    return StepReport(step=step, n_steps=n_steps, label=label, terms={"sse": 12.34567, "aux": 0.5}, l0=7.96, n_dead=3)


@pytest.fixture
def eager(monkeypatch):
    """Bars that draw at every step, as on a terminal after half a second."""

    class Eager(tqdm.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "mininterval": 0, "miniters": 1, "dynamic_ncols": False, "ncols": 160})

    monkeypatch.setattr(tqdm, "tqdm", Eager)


def test_a_training_bar_shows_terms_l0_dead_latents_and_the_time_left(eager, capsys):
    progress = BarProgress()
    for step in range(3):
        progress.step(report(step), 1)
    out, err = capsys.readouterr()
    assert out == ""
    line = err.split("\r")[-1]
    assert "training 1 SAEs:  75%" in line
    assert "topk L0 8 seed 0: sse 12.35  aux 0.5  L0 8.0  dead 3" in line
    assert "<00:0" in line  # elapsed<left
    assert "3/4" in line
    progress.close()


def test_the_bar_counts_the_steps_of_all_saes_and_ends(eager, capsys):
    progress = BarProgress()
    for step in range(4):
        for label in ("a", "b"):
            progress.step(report(step, label=label), 2)
    assert "8/8" in capsys.readouterr().err.split("\r")[-1]
    assert progress._bar is None


def test_a_resumed_bar_begins_where_training_does(eager, capsys):
    progress = BarProgress()
    progress.step(report(2), 1)
    assert "3/4" in capsys.readouterr().err.split("\r")[-1]
    progress.close()


def test_capture_and_evaluation_have_their_own_bars(eager, capsys):
    progress = BarProgress()
    progress.capture("held-out activations", 0, 10_000)
    progress.capture("held-out activations", 5_000, 10_000)
    progress.evaluated(1, 2, "topk seed 0")
    err = capsys.readouterr().err
    assert "capturing held-out activations" in err
    assert "5.00k/10.0k" in err
    assert "evaluating SAEs" in err
    assert "topk seed 0" in err
    progress.close()


def test_quiet_shows_no_bar_but_notes(capsys):
    progress = BarProgress(quiet=True)
    progress.step(report(0), 1)
    progress.capture("x", 1, 2)
    progress.evaluated(1, 2, "x")
    assert capsys.readouterr().err == ""
    progress.note("a note")
    assert capsys.readouterr().err == "a note\n"


def test_a_note_ends_the_bar_before_it(eager, capsys):
    progress = BarProgress()
    progress.step(report(0), 1)
    progress.note("a note")
    assert capsys.readouterr().err.endswith("\na note\n")


def test_an_error_is_not_appended_to_a_bar(eager, capsys):
    @click.command()
    def command():
        BarProgress().step(report(0), 1)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        command.main([], standalone_mode=False)
    assert capsys.readouterr().err.endswith("\n")
