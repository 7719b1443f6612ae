"""Progress on stderr: bars that show loss terms, L0, dead latents and the time left."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..training.fit import StepReport


class BarProgress:
    """One bar at a time; where stderr is no terminal, a line every half minute."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bar: Any = None
        self._name = ""
        # However the command ends: an error's line must not be appended to a bar.
        context = click.get_current_context(silent=True)
        if context is not None:
            context.call_on_close(self.close)

    def note(self, text: str) -> None:
        """One line."""
        self.close()
        click.echo(text, err=True)

    def capture(self, what: str, done: int, total: int) -> None:
        """Tokens captured; the first call says how many an earlier run left, which no rate counts."""
        self._move(f"capturing {what}", done, total, "tok", initial=done)

    def step(self, report: StepReport, n_jobs: int) -> None:
        """One SAE made one step: the bar counts the steps of all SAEs of the cohort."""
        total = report.n_steps * n_jobs
        bar = self._open(f"training {n_jobs} SAEs", total, "step", initial=report.step * n_jobs)
        if bar is not None:
            bar.update(1)
            terms = "  ".join(f"{name} {value:.4g}" for name, value in report.terms.items())
            bar.set_postfix_str(f"{report.label}: {terms}  L0 {report.l0:.1f}  dead {report.n_dead}", refresh=False)
            if bar.n >= total:
                self.close()

    def evaluated(self, done: int, total: int, label: str) -> None:
        """One SAE was evaluated."""
        self._move("evaluating SAEs", done, total, "SAE", label)

    def close(self) -> None:
        """End the bar that is shown."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._name = None, ""

    def _move(self, name: str, done: int, total: int, unit: str, postfix: str = "", initial: int = 0) -> None:
        bar = self._open(name, total, unit, initial)
        if bar is not None:
            bar.set_postfix_str(postfix, refresh=False)
            bar.update(done - bar.n)
            if done >= total:
                self.close()

    def _open(self, name: str, total: int, unit: str, initial: int = 0) -> Any:
        if self.quiet:
            return None
        if self._name != name:
            from tqdm import tqdm

            self.close()
            interval = 0.5 if sys.stderr.isatty() else 30.0
            self._bar = tqdm(
                total=total,
                initial=initial,
                desc=name,
                unit=unit,
                unit_scale=unit == "tok",
                file=sys.stderr,
                mininterval=interval,
                maxinterval=interval,
                dynamic_ncols=True,
            )
            self._name = name
        return self._bar
