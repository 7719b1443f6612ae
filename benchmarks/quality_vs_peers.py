"""Reconstruction quality of the harness's TopK beside dictionary_learning's, trained on the very same batches.

    python benchmarks/quality_vs_peers.py [--suite tiny] [--l0 16,32] [--seeds 3] [--out FILE.json]

README.md of this folder says what is equal on both sides and what each row is. Exit status: 0 done, 2 a user's error
or a peer that cannot be installed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from peer_environment import DEFAULT_FOLDER, PeerError, PeerProcess, ensure_environment
from quality_report import Peer, Run, report, table

from harness import __version__
from harness.bench import Bench
from harness.cli.context import AppContext
from harness.cli.options import FORMATS, chosen_suite
from harness.errors import HarnessError
from harness.methods import Method, build, effective_options, resolve_method

if TYPE_CHECKING:
    from harness.config import SuiteConfig

HERE = Path(__file__).resolve().parent


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option("--suite", "suite_name", default="tiny", show_default=True, help="The protocol to use.")
@click.option("--l0", "l0s", metavar="L0,...", help="Values of k [default: the suite's].")
@click.option("--seeds", "n_seeds", type=int, metavar="N", help="Number of training seeds [default: the suite's].")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=HERE / "results" / "quality_vs_peers.json",
    help="Where the figures go [default: benchmarks/results/quality_vs_peers.json]; the table goes beside it, as .md.",
)
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="The harness's cache folder.")
@click.option(
    "--environment",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_FOLDER / "dictionary_learning",
    help="The peer's virtual environment, made if need be [default: .cache/peers/dictionary_learning].",
)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of either side.")
@click.option("--format", "fmt", type=click.Choice(FORMATS), default="plain", show_default=True)
def main(
    suite_name: str,
    l0s: str | None,
    n_seeds: int | None,
    out: Path,
    cache: Path | None,
    environment: Path,
    threads: int,
    fmt: str,
) -> None:
    app = AppContext(cache=cache)
    try:
        suite = chosen_suite(app, suite_name, n_seeds, l0s)
        python = ensure_environment(environment.resolve())
        out.parent.mkdir(parents=True, exist_ok=True)
        figures = compare(Bench(suite, app.catalogue, app.cache), python, threads)
    except (HarnessError, PeerError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    out.write_text(report(figures) + "\n")
    out.with_suffix(".md").write_text(table(figures, "github") + "\n")
    click.echo(table(figures, fmt))
    click.echo(f"Written: {out} and {out.with_suffix('.md').name}.", err=True)


def compare(bench: Bench, python: Path, n_threads: int) -> dict[str, Any]:
    """Train and measure both sides over the suite's L0 grid and seeds; the figures as `quality_report` reads them."""
    import torch
    from quality_sides import OURS, dead_after_tokens, export, train_ours, train_peer

    torch.set_num_threads(n_threads)
    suite = bench.suite
    method = resolve_method(bench.catalogue, "topk", suite_options=suite.options)
    options = options_of(suite, method)
    variants = list(peers(float(options["lr"]), dead_after_tokens(suite)))
    ours: list[Run] = []
    theirs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="quality-vs-peers-") as name:
        folder = Path(name)
        with PeerProcess(python, n_threads, folder / "peer.log") as process:
            data = export(bench, folder)
            # Seed by seed and side by side, so that a busy machine slows both alike.
            for l0 in suite.l0_grid:
                for seed in suite.seeds:
                    ours.append(train_ours(suite, method, data, l0, seed))
                    for peer in variants:
                        theirs += train_peer(process, suite, peer, data, l0, seed)
                    click.echo(f"L0 {l0} seed {seed} done", err=True)
            versions = {"sae-harness": __version__, **process.versions}
    return {
        "suite": {**shared_protocol(suite), "lm_sha256": bench.lm_source.weights_sha256},
        "ours": {"label": OURS, "lr": options["lr"], "options": options},
        "peers": [asdict(peer) for peer in variants],
        "runs": [asdict(run) for run in [*ours, *theirs]],
        "versions": {**versions, "python": sys.version.partition(" ")[0], "torch (ours)": torch.__version__},
        "threads": n_threads,
    }


def options_of(suite: SuiteConfig, method: Method) -> dict[str, Any]:
    """Every hyperparameter of ours as read off the objects, but k, which varies."""
    options = effective_options(*build(method, d_in=1, d_sae=suite.d_sae, target_l0=suite.l0_grid[0]))
    return {name: value for name, value in options.items() if name != "sae.k"}


def shared_protocol(suite: SuiteConfig) -> dict[str, Any]:
    """The part of the suite that both sides share."""
    names = ("name", "claim", "hookpoint", "d_sae", "l0_grid", "seeds", "n_tokens", "n_steps", "batch_size")
    return {name: getattr(suite, name) for name in names}


def peers(lr: float, dead_after: int) -> Iterator[Peer]:
    """The peer with its own learning rate, with ours, and with ours and a dead threshold within the budget."""
    name = "dictionary_learning"
    yield Peer(label=name, lr=None, dead_after_tokens=None, codes=("top_k", "threshold"))
    yield Peer(label=f"{name}, our lr", lr=lr, dead_after_tokens=None, codes=("top_k", "threshold"))
    yield Peer(label=f"{name}, our lr + aux", lr=lr, dead_after_tokens=dead_after, codes=("top_k",))


if __name__ == "__main__":
    main()
