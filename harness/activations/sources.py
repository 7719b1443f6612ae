"""Where activations come from: a language model resolved to files and content hashes, or a world. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..artefacts.key import artefact_key, file_sha256
from ..config import LMConfig, WorldConfig
from ..data.text_source import TextSource, files_sha256, package_folder, resolve_text
from ..errors import MissingModelError
from .keys import WORLD_VERSION

__all__ = ["LMSource", "TextSource", "WorldSource", "resolve_lm", "resolve_text", "resolve_world"]

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_NEEDED = "config.json, *.safetensors and tokenizer.json (or one .gguf file)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LMSource:
    """A language model that was found: its files and the hashes that stand for their content."""

    name: str
    folder: Path
    gguf: str = ""
    """File name in `folder` of a GGUF, which holds weights and tokenizer; empty for safetensors."""
    weights_sha256: str
    """Over config.json and the weight files."""
    tokenizer_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSource:
    """A synthetic world in the place of a language model."""

    name: str
    weights_sha256: str
    """Over all that a document depends on, and the generator's version."""
    tokenizer_sha256: str = ""
    """A world has no tokens."""


def resolve_world(config: WorldConfig) -> WorldSource:
    """The source that stands for a world in records."""
    inputs = {"world": config.generator_inputs()}
    return WorldSource(
        name=f"world of {config.n_features:,} features in {config.d_in} dimensions",
        weights_sha256=artefact_key("world", inputs, WORLD_VERSION),
    )


def resolve_lm(config: LMConfig, cache_root: Path) -> LMSource:
    """Find the files of `config.source` and hash them.

    Raises:
        MissingModelError: they are not there or not complete; says where they were looked for and what to do.
    """
    scheme, _, rest = config.source.partition(":")
    if scheme == "package" and rest:
        return _from_package(rest)
    if scheme == "fetched" and rest:
        return _from_fetched(rest, cache_root)
    path = Path(config.source).expanduser()
    if path.is_file():
        return _from_gguf(path, path.stem)
    if path.is_dir():
        return _from_folder(path, path.resolve().name, f"Put {_NEEDED} there.")
    if (
        path.suffix == ".gguf"
        or path.is_absolute()
        or config.source.startswith((".", "~"))
        or config.source.count("/") > 1
    ):
        raise MissingModelError(
            f"Language model {config.source!r}: no such file or folder. Give a folder with {_NEEDED}, "
            "package:PACKAGE, fetched:NAME, or a hub id."
        )
    return _from_hub(config.source, config.revision)


def _from_package(package: str) -> LMSource:
    folder = package_folder(package)
    if folder is None:
        raise MissingModelError(
            f"Language model 'package:{package}': no importable package {package!r}. Install it, then try again."
        )
    return _from_folder(folder, package, "Reinstall the package.")


def _from_fetched(name: str, cache_root: Path) -> LMSource:
    folder = cache_root / "models" / name
    if not folder.is_dir():
        raise MissingModelError(f"Language model 'fetched:{name}' is not in {folder}: run: sae-harness fetch {name}")
    return _from_folder(folder, name, f"Run: sae-harness fetch {name}")


def _from_hub(repo: str, revision: str) -> LMSource:
    """A hub id: the local hub cache first, then the network."""
    from huggingface_hub import snapshot_download

    patterns = ["config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", *_TOKENIZER_FILES]
    try:
        folder = Path(
            snapshot_download(repo, revision=revision or None, allow_patterns=patterns, local_files_only=True)
        )
        if not _missing(folder):
            return _from_folder(folder, repo, "")
    except (OSError, ValueError):
        pass  # not in the local hub cache, or only a part of it: ask the network
    try:
        folder = Path(snapshot_download(repo, revision=revision or None, allow_patterns=patterns))
    except Exception as error:
        at = f" at revision {revision!r}" if revision else ""
        raise MissingModelError(
            f"Language model {repo!r}{at} is neither a local folder nor in the local hub cache, and the hub cannot be "
            f"read ({type(error).__name__}: {_first_line(error)}). Put {_NEEDED} in a folder and give its path as "
            "the source, or run once with a network (gated models: after `hf auth login`)."
        ) from error
    return _from_folder(folder, repo, "The hub repository must hold safetensors: convert it, and give the folder.")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _missing(folder: Path) -> list[str]:
    """What a folder of safetensors lacks."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        missing.append("tokenizer.json")
    return missing


def _from_folder(folder: Path, name: str, mend: str) -> LMSource:
    missing = _missing(folder)
    if missing:
        ggufs = sorted(folder.glob("*.gguf"))
        if len(ggufs) == 1:
            return _from_gguf(ggufs[0], name)
        several = f" It holds {len(ggufs)} .gguf files: name one of them." if ggufs else ""
        raise MissingModelError(
            f"Language model {name!r}: {folder} lacks {', '.join(missing)}.{several} {mend}".rstrip()
        )
    weights = [folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    tokenizer = [folder / file for file in _TOKENIZER_FILES if (folder / file).is_file()]
    return LMSource(
        name=name,
        folder=folder,
        weights_sha256=files_sha256(weights, folder),
        tokenizer_sha256=files_sha256(tokenizer, folder),
    )


def _from_gguf(path: Path, name: str) -> LMSource:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise MissingModelError(
            f"Language model {str(path)!r} is not a GGUF file (it begins with {magic!r}). Give a .gguf file or "
            f"a folder with {_NEEDED}."
        )
    sha256 = file_sha256(path)
    return LMSource(name=name, folder=path.parent, gguf=path.name, weights_sha256=sha256, tokenizer_sha256=sha256)
