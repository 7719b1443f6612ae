"""Write a new plugin from the template that lies beside this file."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from .. import __version__
from ..errors import ConfigError

_TEMPLATE = Path(__file__).parent / "template"
_SUFFIX = ".tmpl"  # keeps linters, type checkers and pytest from taking the template for code
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


def write_plugin(name: str, into: Path) -> Path:
    """Write the plugin folder `into/name`: an installable distribution with one method and its tests.

    Raises:
        ConfigError: the name cannot be a method's, the folder exists already, or it cannot be written.
    """
    if not _NAME.match(name) or keyword.iskeyword(name) or name.endswith("_") or "__" in name:
        raise ConfigError(
            f"{name!r} cannot be the name of a method: use lower-case letters, digits and single underscores, "
            "starting with a letter, as in my_idea."
        )
    folder = into / name
    if folder.exists():
        raise ConfigError(f"{folder} exists already: choose another name, or another folder with --into.")
    values = {
        "name": name,
        "distribution": f"sae-harness-{name.replace('_', '-')}",
        "package": f"sae_harness_{name}",
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "harness_version": __version__,
    }
    try:
        for source in sorted(_TEMPLATE.rglob(f"*{_SUFFIX}")):
            inside = source.relative_to(_TEMPLATE).as_posix().removesuffix(_SUFFIX)
            target = folder / re.sub(r"^package/", f"{values['package']}/", inside)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_filled(source.read_text(encoding="utf-8"), values), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror}): choose another folder with --into."
        ) from error
    return folder


def _filled(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], text)
