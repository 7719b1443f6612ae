"""sae-harness: a plugin-based benchmark harness for sparse autoencoders.

The names a plugin may use. They load lazily: `import harness` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "hookimpl": "hookspecs",
    "API_VERSION": "interfaces.specs",
    "AnalysisSpec": "interfaces.specs",
    "AuditHit": "interfaces.audit",
    "AuditRuleSpec": "interfaces.audit",
    "EvaluatorSpec": "interfaces.specs",
    "MetricSpec": "interfaces.specs",
    "MetricValue": "interfaces.specs",
    "Option": "interfaces.specs",
    "Preset": "interfaces.specs",
    "SAESpec": "interfaces.specs",
    "TrainerSpec": "interfaces.specs",
    "Analysis": "interfaces.analysis",
    "AnalysisResult": "interfaces.analysis",
    "Bars": "interfaces.analysis",
    "Dendrogram": "interfaces.analysis",
    "Figure": "interfaces.analysis",
    "Graph": "interfaces.analysis",
    "HeatMap": "interfaces.analysis",
    "Histogram": "interfaces.analysis",
    "Line": "interfaces.analysis",
    "Panel": "interfaces.analysis",
    "Reference": "interfaces.analysis",
    "Scatter": "interfaces.analysis",
    "Table": "interfaces.analysis",
    "TrainingLog": "interfaces.analysis",
    "ActivationBatch": "interfaces.batch",
    "SequenceBatch": "interfaces.batch",
    "SAE": "interfaces.sae",
    "SAEConfig": "interfaces.sae",
    "RaggedCodes": "interfaces.sae",
    "SparseCodes": "interfaces.sae",
    "LossTerms": "interfaces.trainer",
    "Options": "interfaces.trainer",
    "Trainer": "interfaces.trainer",
    "TrainerOptions": "interfaces.trainer",
    "TrainState": "interfaces.trainer",
    "EncodedBatch": "interfaces.evaluator",
    "WorldTruth": "interfaces.truth",
    "EvalContext": "interfaces.evaluator",
    "Evaluator": "interfaces.evaluator",
    "LanguageModelView": "interfaces.evaluator",
    "NextTokenLosses": "interfaces.evaluator",
    "PromptBatch": "interfaces.prompts",
    "ConfigError": "errors",
    "DataError": "errors",
    "HarnessError": "errors",
    "NonFiniteError": "errors",
    "NotEvaluatedError": "errors",
    "ShapeError": "errors",
}

__all__ = sorted([*_HOME, "__version__"])

if TYPE_CHECKING:
    from .errors import ConfigError as ConfigError
    from .errors import DataError as DataError
    from .errors import HarnessError as HarnessError
    from .errors import NonFiniteError as NonFiniteError
    from .errors import NotEvaluatedError as NotEvaluatedError
    from .errors import ShapeError as ShapeError
    from .hookspecs import hookimpl as hookimpl
    from .interfaces.analysis import Analysis as Analysis
    from .interfaces.analysis import AnalysisResult as AnalysisResult
    from .interfaces.analysis import Bars as Bars
    from .interfaces.analysis import Dendrogram as Dendrogram
    from .interfaces.analysis import Figure as Figure
    from .interfaces.analysis import Graph as Graph
    from .interfaces.analysis import HeatMap as HeatMap
    from .interfaces.analysis import Histogram as Histogram
    from .interfaces.analysis import Line as Line
    from .interfaces.analysis import Panel as Panel
    from .interfaces.analysis import Reference as Reference
    from .interfaces.analysis import Scatter as Scatter
    from .interfaces.analysis import Table as Table
    from .interfaces.analysis import TrainingLog as TrainingLog
    from .interfaces.audit import AuditHit as AuditHit
    from .interfaces.audit import AuditRuleSpec as AuditRuleSpec
    from .interfaces.batch import ActivationBatch as ActivationBatch
    from .interfaces.batch import SequenceBatch as SequenceBatch
    from .interfaces.evaluator import EncodedBatch as EncodedBatch
    from .interfaces.evaluator import EvalContext as EvalContext
    from .interfaces.evaluator import Evaluator as Evaluator
    from .interfaces.evaluator import LanguageModelView as LanguageModelView
    from .interfaces.evaluator import NextTokenLosses as NextTokenLosses
    from .interfaces.prompts import PromptBatch as PromptBatch
    from .interfaces.sae import SAE as SAE
    from .interfaces.sae import RaggedCodes as RaggedCodes
    from .interfaces.sae import SAEConfig as SAEConfig
    from .interfaces.sae import SparseCodes as SparseCodes
    from .interfaces.specs import API_VERSION as API_VERSION
    from .interfaces.specs import AnalysisSpec as AnalysisSpec
    from .interfaces.specs import EvaluatorSpec as EvaluatorSpec
    from .interfaces.specs import MetricSpec as MetricSpec
    from .interfaces.specs import MetricValue as MetricValue
    from .interfaces.specs import Option as Option
    from .interfaces.specs import Preset as Preset
    from .interfaces.specs import SAESpec as SAESpec
    from .interfaces.specs import TrainerSpec as TrainerSpec
    from .interfaces.trainer import LossTerms as LossTerms
    from .interfaces.trainer import Options as Options
    from .interfaces.trainer import Trainer as Trainer
    from .interfaces.trainer import TrainerOptions as TrainerOptions
    from .interfaces.trainer import TrainState as TrainState
    from .interfaces.truth import WorldTruth as WorldTruth


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
