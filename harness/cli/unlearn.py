"""`sae-harness unlearn`: clamp the latents that texts to be forgotten use, and see what that costs on other texts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..artefacts.key import source_sha256
from ..bench import Bench
from ..compute import Compute
from ..errors import CheckpointError, ConfigError, DataError
from ..pipeline import eval_context
from ..report.tables import render
from .context import AppContext, pass_app
from .options import chosen_suite, device_option, suite_option, table_options
from .progress import BarProgress
from .trained_as import require_saved

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.context import StoreEvalContext
    from ..evaluation.unlearning import Intervention, Setting
    from ..evaluation.unlearning_draws import DrawnText
    from ..evaluation.unlearning_sweep import TextBench
    from ..interfaces.sae import SAE

_Z = 1.96
_LEAST = 8
"""Texts of each side and half with losses measured, as `evaluation.unlearning_sweep` asks for."""
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(
    help=(
        "Sweep unlearning settings on the SAE saved in folder SAE. Latents are chosen on half of the texts and clamped "
        "where they fire; shown is by how much the cross-entropy of the other half rises.\n\n"
        "A file has a text a line (.txt), or rows with `text` (.jsonl), and at least 16 different ones: half are to "
        "choose settings on, half to read them on, 8 in each. Relearning is not tested."
    ),
    short_help="Clamp latents by texts to forget and to retain.",
    epilog="Example:  sae-harness unlearn saes/topk-l0-32-seed-0 --forget bio.txt --retain news.txt",
)
@click.argument("path", metavar="SAE", type=click.Path(path_type=Path))
@click.option("--forget", type=_FILE, required=True, help="Texts to be forgotten.")
@click.option("--retain", type=_FILE, required=True, help="Texts that must be predicted as before.")
@suite_option
@click.option(
    "--selectors",
    default="rate:0.01, ratio:0.95",
    show_default=True,
    metavar="NAME:X,...",
    help="How latents are chosen, each with its threshold: rate, ratio, information or attribution.",
)
@click.option("--latents", default="5, 20", show_default=True, metavar="N,...", help="How many are clamped.")
@click.option(
    "--strengths", default="1, 4, 16", show_default=True, metavar="X,...", help="To minus so many of their mean codes."
)
@click.option("--budget", default=0.01, show_default=True, help="Largest relative rise allowed on retain texts.")
@click.option(
    "--texts", "n_texts", default=256, show_default=True, help="Texts of each side and half, at most; 8 or more."
)
@click.option(
    "--measured", "n_measured", default=64, show_default=True, help="Of these, with losses measured; 8 or more."
)
@click.option("--max-tokens", default=64, show_default=True, help="A text is cut there.")
@table_options
@device_option
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@pass_app
def command(
    app: AppContext,
    path: Path,
    forget: Path,
    retain: Path,
    suite_name: str,
    selectors: str,
    latents: str,
    strengths: str,
    budget: float,
    n_texts: int,
    n_measured: int,
    max_tokens: int,
    as_json: bool,
    fmt: str,
    quiet: bool,
    device: str,
) -> None:
    require_saved(path)
    _require(n_texts >= _LEAST, f"--texts must be at least {_LEAST}, got {n_texts}: it is of each side and half.")
    _require(n_measured >= _LEAST, f"--measured must be at least {_LEAST}, got {n_measured}: fewer say nothing.")
    _require(max_tokens >= 2, f"--max-tokens must be at least 2, got {max_tokens}: the first token is not predicted.")
    _require(budget > 0, f"--budget must be above 0, got {budget:g}: 0.01 allows retain texts a rise of 1 %.")
    numbers = _numbers(latents, strengths)
    texts = read_texts(forget, retain)
    from ..training.checkpoint import load_sae, read_config

    settings = _settings(selectors, *numbers)
    compute = Compute(device=device)
    suite = chosen_suite(app, suite_name)
    bench = Bench(suite, app.catalogue, app.cache, compute=compute)
    meta = read_config(path)
    sae = load_sae(path, lambda name: app.catalogue.sae(name).load())  # type: ignore[arg-type]
    compute.check()
    progress = BarProgress(quiet=quiet)
    context = eval_context(bench, progress)
    if meta["d_in"] != context.d_in:
        raise CheckpointError(
            f"{path} acts on d_in {meta['d_in']}; {suite.hookpoint} of suite {suite.name} has {context.d_in}. "
            "Name the suite it was trained on with --suite."
        )
    if not context.has_language_model:
        raise DataError(
            f"Suite {suite.name} has no language model to forget anything: choose another --suite, or the evaluator "
            "true_side_effects of sae-harness-hierarchical-unlearning."
        )
    view = context.scoped("unlearn", source_sha256("harness", only=("evaluation",)))
    drawn = draw(texts, n_texts, n_measured, view)
    found = sweep_texts(sae.to(compute.device).eval(), view, drawn, settings, budget, max_tokens)
    progress.close()
    found = {"sae_id": meta["sae_id"], "suite": suite.name, **found}
    click.echo(json.dumps(found, indent=1) if as_json else _told(found, fmt))


def read_texts(forget: Path, retain: Path) -> dict[bool, list[str]]:
    """Distinct texts to be forgotten (True) and to be kept (False), in the order of their files.

    Raises:
        DataError: a file cannot be read or holds too few texts, or a text is in both.
    """
    found = {side: list(dict.fromkeys(_lines(path))) for side, path in ((True, forget), (False, retain))}
    for side, path in ((True, forget), (False, retain)):
        if not found[side]:
            raise DataError(f"{path} holds no text.")
        if len(found[side]) < 2 * _LEAST:
            raise DataError(
                f"{path} holds {len(found[side])} different texts, {2 * _LEAST} are needed: half are to choose "
                f"settings on, half to read them on, {_LEAST} in each at least."
            )
    both = set(found[True]) & set(found[False])
    if both:
        raise DataError(
            f"{len(both)} texts are in both {forget} and {retain}, such as {min(both)[:60]!r}: a text is to be "
            "forgotten or to be kept."
        )
    return found


def _lines(path: Path) -> list[str]:
    if path.suffix not in (".txt", ".jsonl"):
        raise DataError(f"{path} is neither .txt (a text a line) nor .jsonl (rows with `text`).")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    if path.suffix == ".txt":
        return [line for line in lines if line]
    found = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            text = json.loads(line)["text"]
            if not isinstance(text, str) or not text.strip():
                raise ValueError("`text` is empty or no string")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"Line {number} of {path} is no row with `text` ({error!r}).") from error
        found.append(text.strip())
    return found


def _require(holds: bool, told: str) -> None:
    if not holds:
        raise ConfigError(told)


def _numbers(latents: str, strengths: str) -> tuple[list[int], list[float]]:
    """The two lists of numbers; each option's fault is told by itself."""
    try:
        ns = [int(n) for n in latents.split(",")]
    except ValueError:
        ns = []
    _require(
        bool(ns) and min(ns) >= 1, f"--latents must be whole numbers of at least 1, such as '5, 20'; got {latents!r}."
    )
    try:
        factors = [float(x) for x in strengths.split(",")]
    except ValueError:
        factors = []
    _require(
        bool(factors) and all(0 <= x < math.inf for x in factors),
        f"--strengths must be numbers of at least 0, such as '1, 4, 16'; got {strengths!r}.",
    )
    return ns, factors


def _settings(selectors: str, ns: Sequence[int], strengths: Sequence[float]) -> tuple[Setting, ...]:
    from ..evaluation.unlearning import settings_of

    try:
        named = [(name.strip(), float(x)) for name, x in (entry.split(":") for entry in selectors.split(","))]
    except ValueError:
        raise ConfigError(
            f"--selectors must be names with thresholds, such as 'rate:0.01, ratio:0.95'; got {selectors!r}."
        ) from None
    return settings_of(named, ns, strengths, "mean")


def draw(
    texts: Mapping[bool, Sequence[str]], n_texts: int, n_measured: int, context: StoreEvalContext
) -> list[DrawnText]:
    """Each side's texts in two halves, drawn with the suite's evaluation seed."""
    import torch

    from ..evaluation.unlearning_draws import DrawnText

    found = []
    for side, own in texts.items():
        generator = context.generator(f"unlearn {'forget' if side else 'retain'}")
        order = torch.randperm(len(own), generator=generator).tolist()
        middle = len(order) // 2
        for half, part in ((0, order[:middle]), (1, order[middle:])):
            found += [
                DrawnText(
                    text=own[int(i)],
                    measured=n < n_measured,
                    forget=side,
                    half=half,
                    domain="forget" if side else "retain",
                )
                for n, i in enumerate(part[:n_texts])
            ]
    return found


def sweep_texts(
    sae: SAE,
    context: StoreEvalContext,
    drawn: Sequence[DrawnText],
    settings: Sequence[Setting],
    budget: float,
    max_tokens: int,
) -> dict[str, Any]:
    """Every setting on the selection half; those of its frontier, the chosen one and its null on the report half.

    Raises:
        DataError: a side and half has too few texts.
    """
    import torch

    from ..evaluation.unlearning import best_within, random_matched
    from ..evaluation.unlearning_sweep import REPORT, SELECTION, TextBench, sweep

    with torch.no_grad():
        bench = TextBench(drawn, context, max_tokens=max_tokens)
        told = bench.coded(sae, context)
        forget, retain = bench.firings(told, SELECTION)

        def losses(half: int, intervention: Intervention | None) -> Tensor:
            return bench.losses(context, told, intervention, half)

        selection = sweep(settings, forget, retain, lambda clamp: losses(SELECTION, clamp))
        gain, cost = (_rises(bench, selection, SELECTION, forget=side) for side in (True, False))
        chosen = best_within(gain, cost, budget)
        shown = sorted({*undominated(gain.tolist(), cost.tolist()), *([chosen] if chosen >= 0 else [])})
        rows: list[dict[str, Any]] = []
        for place, setting in enumerate(settings):
            row = _described(setting)
            row["selection"] = {"forget_rise": float(gain[place]), "retain_rise": float(cost[place])}
            if place in shown:
                clamp = setting.clamp(setting.latents(forget, retain), forget, retain)
                row["report"] = _report(bench, losses(REPORT, clamp))
            rows.append({**row, "chosen": place == chosen})
        null = None
        if chosen >= 0:
            own = settings[chosen].latents(forget, retain)
            others = random_matched(own, forget, retain, context.generator("matched"))
            null = _report(bench, losses(REPORT, settings[chosen].clamp(others, forget, retain)))
        measured = {
            name: int(bench.of(forget=side, half=REPORT).sum()) for name, side in (("forget", True), ("retain", False))
        }
    return {"budget": budget, "measured_texts": measured, "settings": rows, "random_matched": null}


def undominated(gain: Sequence[float], cost: Sequence[float]) -> list[int]:
    """The settings that gain something and more than every one of less or equal cost, by rising cost."""
    found: list[int] = []
    best = 0.0
    for place in sorted(range(len(gain)), key=lambda i: (cost[i], -gain[i])):
        if gain[place] > best:
            best = gain[place]
            found.append(place)
    return found


def _described(setting: Setting) -> dict[str, Any]:
    return {
        "selector": f"{setting.selector}:{setting.threshold:g}",
        "latents": setting.n,
        "strength": setting.strength,
    }


def _rises(bench: TextBench, losses: Tensor, half: int, *, forget: bool) -> Tensor:
    """[s]: relative rise of the cross-entropy [s, t] over a side and half."""
    own = bench.of(forget=forget, half=half)
    return losses[:, own].sum(1) / bench.clean.ce[own].sum() - 1


def _report(bench: TextBench, losses: Tensor) -> dict[str, list[float]]:
    """Of the report half, rise and 95 % interval over texts, for each side."""
    from ..evaluation.metrics import ratio_estimate
    from ..evaluation.unlearning_sweep import REPORT

    found = {}
    for name, side in (("forget_rise", True), ("retain_rise", False)):
        own = bench.of(forget=side, half=REPORT)
        rise = ratio_estimate((losses - bench.clean.ce)[own], bench.clean.ce[own], "rise of the cross-entropy")
        width = _Z * (rise.stderr or 0.0)
        found[name] = [rise.value, rise.value - width, rise.value + width]
    return found


def _told(found: Mapping[str, Any], fmt: str) -> str:
    rows = [
        [
            "*" if row["chosen"] else "",
            row["selector"],
            str(row["latents"]),
            f"{row['strength']:g}",
            *(_interval(row["report"][name]) for name in ("forget_rise", "retain_rise")),
        ]
        for row in sorted(found["settings"], key=lambda row: row["selection"]["retain_rise"])
        if "report" in row
    ]
    null = found["random_matched"]
    if null is not None:
        own = next(row for row in found["settings"] if row["chosen"])
        rows.append(["", "random", str(own["latents"]), f"{own['strength']:g}", *(_interval(null[n]) for n in null)])
    headers = ["", "selector", "latents", "strength", "forget rise [95 %]", "retain rise [95 %]"]
    if not rows:
        return f"None of {len(found['settings'])} settings makes the texts to be forgotten harder to predict."
    table = render(rows, headers, fmt)
    if fmt == "csv":
        return table
    measured = found["measured_texts"]
    return (
        f"{table}\n\nRise of the cross-entropy on {measured['forget']} forget and {measured['retain']} retain texts "
        "that no setting was chosen on; shown are the settings on the frontier of the other half. "
        f"* largest forget rise within {found['budget']:.1%} on retain texts there; random: as many latents that fire "
        "about as often on retain texts. Relearning is not tested."
    )


def _interval(values: Sequence[float]) -> str:
    value, low, high = values
    return f"{value:+.2%} [{low:+.2%}, {high:+.2%}]"
