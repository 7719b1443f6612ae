"""Speed of the harness beside its peers, each in its own environment, in turns on one machine.

    python benchmarks/speed.py [--only training,encode] [--configs A,B] [--threads 2] [--rounds 5]

What was measured before and is not measured now stays in the results. README.md of this folder says how each section
is measured. Exit status: 0 done, 2 a user's error or a peer that cannot be installed or run.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from peer_environment import DEFAULT_FOLDER, PEERS, PeerError
from timing.lms import LMS
from timing.machine import machine
from timing.page import FIGURE, PAGE, SECTIONS, page
from timing.plan import Measure, Plan
from timing.sizes import SIZES
from timing.store import ResultsError, check_machine, merge, of_section, read
from timing.team import Team

from harness.errors import HarnessError

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


class Names(click.ParamType):
    """Names separated by commas, each one of those known."""

    name = "names"

    def __init__(self, known: Iterable[str]) -> None:
        self._known = tuple(known)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in str(value).split(",") if part.strip())
        unknown = [name for name in names if name not in self._known]
        if unknown or not names:
            self.fail(f"{', '.join(unknown) or 'nothing'}: known are {', '.join(self._known)}.", param, ctx)
        return names


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--only", type=Names(SECTIONS), default=tuple(SECTIONS), metavar="SECTION,...", help="[default: all]")
@click.option("--configs", type=Names(SIZES), default=("A", "B", "C"), metavar="SIZE,...", help="[default: A,B,C]")
@click.option("--peers", type=Names(PEERS), default=tuple(PEERS), metavar="PEER,...", help="[default: all]")
@click.option("--lms", type=Names(LMS), default=("tiny",), metavar="LM,...", help="For core [default: tiny].")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Threads of each side.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.01), default=2.0, show_default=True, help="About, a block.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--grid-tokens", type=click.IntRange(min=1), default=40960, show_default=True, help="Of each SAE.")
@click.option("--grid-runs", type=click.IntRange(min=1), help="Of each peer, multiplied [default: all runs].")
@click.option("--environments", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_FOLDER,
              help="Folder of the peers' environments, made if need be [default: .cache/peers].")  # fmt: skip
@click.option("--work", type=click.Path(path_type=Path, file_okay=False),
              help="Folder for pools, LMs and caches, kept [default: a temporary one].")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="[default: results/speed-DEVICE.json]")
@click.option("--page", "page_path", type=click.Path(path_type=Path, dir_okay=False), default=PAGE,
              help="The page that is made of the results [default: docs/performance.md].")  # fmt: skip
@click.option("--render", "only_render", is_flag=True, help="Measure nothing: make the page from the results.")
def main(
    only: tuple[str, ...],
    configs: tuple[str, ...],
    peers: tuple[str, ...],
    lms: tuple[str, ...],
    threads: int,
    rounds: int,
    seconds: float,
    device: str,
    grid_tokens: int,
    grid_runs: int | None,
    environments: Path,
    work: Path | None,
    out: Path | None,
    page_path: Path,
    only_render: bool,
) -> None:
    # Before any worker starts: a barrier that spins costs a factor of 2 to 5 beside a busy neighbour.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    results = out or RESULTS / f"speed-{device.partition(':')[0]}.json"
    try:
        if not only_render:
            check_machine(results, machine(device))
            with ExitStack() as stack:
                folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="speed-")))
                folder.mkdir(parents=True, exist_ok=True)
                plan = Plan(
                    sizes=tuple(SIZES[name] for name in configs),
                    lms=lms,
                    threads=threads,
                    rounds=rounds,
                    block_seconds=seconds,
                    device=device,
                    grid_tokens=grid_tokens,
                    grid_runs=grid_runs,
                    folder=folder.resolve(),
                    tell=lambda line: click.echo(line, err=True),
                )
                team = stack.enter_context(Team(environments, plan.folder, threads, peers))
                run(team, plan, [name for name in SECTIONS if name in only], results)
        write_page(results, page_path)
    except (HarnessError, PeerError, ResultsError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)


def run(team: Team, plan: Plan, sections: Sequence[str], results: Path) -> None:
    """Measure the sections; each part is kept as soon as it is there, and shown."""
    for name in sections:
        module = importlib.import_module(f"timing.sections.{name}")
        measure: Measure = module.measure
        for part_name, part in measure(team, plan):
            merge(results, machine(plan.device), part_name, part)
            click.echo(module.render({part_name.partition("/")[2]: part}) + "\n")


def write_page(results: Path, page_path: Path) -> None:
    """Make the page, and its figure where there are curves; of all results in the folder of this one."""
    found = {path.stem.partition("-")[2]: read(path) for path in sorted(results.parent.glob("speed-*.json"))}
    if not found:
        raise ResultsError(f"There are no results in {results.parent}: measure first, without --render.")
    page_path.parent.mkdir(parents=True, exist_ok=True)
    page_path.write_text(page(found), encoding="utf-8")
    click.echo(f"Written: {page_path}.", err=True)
    for device, data in found.items():
        curves = of_section(data, "growth")
        if curves:
            draw(curves, page_path.with_name(FIGURE.format(device=device)))


def draw(curves: dict[str, object], path: Path) -> None:
    """The figure of the growth curves; told where matplotlib is not there to draw it."""
    growth = importlib.import_module("timing.sections.growth")
    try:
        growth.draw(curves, path)
    except ImportError:
        click.echo(f"{path.name} is not drawn: it needs matplotlib (pip install 'sae-harness[bench]').", err=True)
        return
    click.echo(f"Written: {path}.", err=True)


if __name__ == "__main__":
    main()
