"""What `sae-harness analyse` writes: a folder for each analysis, with its numbers as JSON and its figures."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import SuiteConfig
from ..errors import ConfigError
from ..interfaces.analysis import AnalysisResult, TrainingLog
from ..interfaces.specs import AnalysisSpec
from ..plugins import Provided
from ..report.figures import render_figure

if TYPE_CHECKING:
    from ..interfaces.sae import SAE

SCHEMA = 1
"""Of the JSON files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The SAE that is looked at."""

    label: str
    """As its folder is called."""
    sae: SAE
    sae_id: str
    log: TrainingLog


def document(
    subject: Subject,
    provided: Provided[AnalysisSpec],
    suite: SuiteConfig,
    result: AnalysisResult,
    reference: Subject | None,
) -> dict[str, Any]:
    """The JSON of an analysis: nothing in it depends on when or where it was run."""
    beside = {} if reference is None else {"reference": _identity(reference)}
    return {
        "schema": SCHEMA,
        "analysis": provided.spec.name,
        "summary": provided.spec.summary,
        "provided_by": f"{provided.distribution} {provided.version}",
        "suite": suite.name,
        "evaluation_seed": suite.evaluation_seed,
        "sae": _identity(subject),
        **beside,
        **result.to_json(),
    }


def _identity(subject: Subject) -> dict[str, Any]:
    config = subject.sae.config
    return {
        "label": subject.label,
        "sae_id": subject.sae_id,
        "architecture": config.architecture,
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "seed": subject.log.seed,
        "options": dict(subject.log.options),
    }


def write(folder: Path, document: Mapping[str, Any], result: AnalysisResult, figures: bool) -> list[str]:
    """Fill `folder` with all files or leave it as it was; names of the files.

    Raises:
        ConfigError: it cannot be written.
    """
    unique = uuid.uuid4().hex[:8]
    fresh, old = (folder.with_name(f".{folder.name}-{kind}-{unique}") for kind in ("new", "old"))
    try:
        fresh.mkdir(parents=True)
        text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
        (fresh / f"{folder.name}.json").write_text(text + "\n", encoding="utf-8")
        for figure in result.figures if figures else ():
            render_figure(figure, fresh)
        files = sorted(path.name for path in fresh.iterdir())
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(fresh, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error}. Give another --out.") from error
    finally:
        for left in (fresh, old):
            shutil.rmtree(left, ignore_errors=True)
    return files
