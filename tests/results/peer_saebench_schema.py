"""Files held against the classes of the installed sae-bench: run in its own environment, without the harness.

    python peer_saebench_schema.py OUTPUT.json FILE...

Each FILE is loaded by the output class of its `eval_type_id`. OUTPUT holds, by file, the metrics as the class has them
or its error; and under `schema`, by `eval_type_id`, group -> field -> whether the class demands a number there.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError  # pyright: ignore[reportMissingImports]
from sae_bench.evals.absorption.eval_output import AbsorptionEvalOutput  # pyright: ignore[reportMissingImports]
from sae_bench.evals.autointerp.eval_output import AutoInterpEvalOutput  # pyright: ignore[reportMissingImports]
from sae_bench.evals.core.eval_output import CoreEvalOutput  # pyright: ignore[reportMissingImports]
from sae_bench.evals.meta_structure.eval_output import (  # pyright: ignore[reportMissingImports]
    MetaStructureEvalOutput,
)
from sae_bench.evals.ravel.eval_output import RAVELEvalOutput  # pyright: ignore[reportMissingImports]
from sae_bench.evals.scr_and_tpp.eval_output import (  # pyright: ignore[reportMissingImports]
    ScrEvalOutput,
    TppEvalOutput,
)
from sae_bench.evals.sparse_probing.eval_output import SparseProbingEvalOutput  # pyright: ignore[reportMissingImports]
from sae_bench.evals.sparse_probing_sae_probes.eval_output import (  # pyright: ignore[reportMissingImports]
    SparseProbingSaeProbesEvalOutput,
)
from sae_bench.evals.unlearning.eval_output import UnlearningEvalOutput  # pyright: ignore[reportMissingImports]

CLASSES: dict[str, Any] = {
    "absorption_first_letter": AbsorptionEvalOutput,
    "autointerp": AutoInterpEvalOutput,
    "core": CoreEvalOutput,
    "meta_structure_decoder_variance": MetaStructureEvalOutput,
    "ravel": RAVELEvalOutput,
    "scr": ScrEvalOutput,
    "tpp": TppEvalOutput,
    "sparse_probing": SparseProbingEvalOutput,
    "sparse_probing_sae_probes": SparseProbingSaeProbesEvalOutput,
    "unlearning": UnlearningEvalOutput,
}


def schema(output: Any) -> dict[str, dict[str, bool]]:
    groups = typing.get_type_hints(output)["eval_result_metrics"]
    return {
        group.name: {
            name: type(None) not in typing.get_args(hint)
            for name, hint in typing.get_type_hints(typing.get_type_hints(groups)[group.name]).items()
            if not name.startswith("_")
        }
        for group in dataclasses.fields(groups)
    }


def loaded(path: Path) -> dict[str, Any]:
    text = path.read_text()
    try:
        found = TypeAdapter(CLASSES[json.loads(text)["eval_type_id"]]).validate_json(text)
    except ValidationError as error:
        return {"error": str(error)}
    return {"metrics": dataclasses.asdict(found)["eval_result_metrics"]}


def main(output: str, *files: str) -> None:
    found = {"schema": {kind: schema(made) for kind, made in CLASSES.items()}}
    found["files"] = {file: loaded(Path(file)) for file in files}
    Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
