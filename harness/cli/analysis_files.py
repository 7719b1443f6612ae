"""What `sae-harness analyse` writes: a folder for each analysis, with its numbers as JSON and its figures."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import SuiteConfig
from ..errors import ConfigError
from ..interfaces.analysis import AnalysisResult, TrainingLog
from ..interfaces.specs import AnalysisSpec
from ..plugins import Provided
from ..report.figures import render_figure

if TYPE_CHECKING:
    from ..evaluation.context import StoreEvalContext
    from ..interfaces.sae import SAE

SCHEMA = 1
"""Of the JSON files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The SAE that is looked at."""

    label: str
    """As its folder is called."""
    origin: str
    """As figures say what it is: method, preset and options, or the folder of a saved SAE."""
    sae: SAE
    sae_id: str
    log: TrainingLog
    target_l0: int | None = None
    """None where it is not known, or the method has none."""
    l0: float | None = None
    """Measured on the suite's held-out data; None where it has not been."""

    def measured(self, context: StoreEvalContext) -> Subject:
        """With its L0 on held-out data."""
        active = n_tokens = 0
        for part in context.encoded(self.sae):
            active += len(part.codes.latents)
            n_tokens += len(part.rows)
        return replace(self, l0=active / n_tokens if n_tokens else None)

    def describe(self) -> str:
        """What it is, its L0 and its seed."""
        parts = [self.origin]
        if self.l0 is not None:
            parts.append(f"L0 {self.l0:.4g}" + ("" if self.target_l0 is None else f" (target {self.target_l0})"))
        if self.log.seed is not None:
            parts.append(f"seed {self.log.seed}")
        return ", ".join(parts)


def attribution(subject: Subject, reference: Subject | None, where: str) -> str:
    """The line that every figure of a run carries; `where` is the suite with LM and hookpoint."""
    beside = "" if reference is None else f" · reference: {reference.describe()}"
    return f"{subject.describe()}{beside} · {where} · d_sae {subject.sae.config.d_sae}"


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
        "l0": subject.l0,
        "target_l0": subject.target_l0,
        "options": dict(subject.log.options),
    }


def write(
    folder: Path, document: Mapping[str, Any], result: AnalysisResult, figures: bool, attribution: str
) -> list[str]:
    """Fill `folder` with all files or leave it as it was; names of the files. Each figure carries `attribution`.

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
            render_figure(figure, fresh, attribution)
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
