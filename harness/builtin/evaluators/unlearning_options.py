"""The options of the two unlearning evaluators, and the data they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness import ConfigError, EvalContext, Option
from harness.evaluation.unlearning import Setting, settings_of
from harness.evaluation.unlearning_draws import Draws, Sizes, draw_from_files, draw_from_table

from .options import chosen_options

_TABLE = "wordnet-questions"
_DEFAULTS: dict[str, int | str] = {
    "n_forget": 64,
    "n_retain": 128,
    "n_texts": 256,
    "n_measured": 64,
    "max_tokens": 64,
    "selectors": "rate:0.01, ratio:0.95",
    "latents": "5, 20",
    "strengths": "1, 4, 16",
    "files": "",
    "files_sha256": "",
}
_SIZES = ("n_forget", "n_retain", "n_texts", "n_measured", "max_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlearningOptions:
    """What an unlearning evaluator is told.

    `n_forget` and `n_retain` questions and `n_texts` texts of each side, at most, in each of the two halves; losses are
    measured on `n_measured` of the texts; a text is cut at `max_tokens`. The sweep is every combination of `selectors`
    (name:threshold; see `harness.evaluation.unlearning.SELECTORS`), numbers of `latents` and `strengths` in units of a
    latent's mean code. `files`: a folder with one's own questions and texts (WMDP, MMLU) instead of the table, and
    `files_sha256`, which a record knows them by.
    """

    n_forget: int
    n_retain: int
    n_texts: int
    n_measured: int
    max_tokens: int
    settings: tuple[Setting, ...]
    files: str
    files_sha256: str

    @staticmethod
    def of(evaluator: str, given: Mapping[str, Option]) -> UnlearningOptions:
        """Raises ConfigError where an option is unknown or makes no sense."""
        chosen = chosen_options(evaluator, _DEFAULTS, given)
        sizes = {name: int(chosen[name]) for name in _SIZES}
        if small := [name for name, size in sizes.items() if size < 1]:
            raise ConfigError(f"Evaluator {evaluator!r}: {', '.join(small)} must be at least 1.")
        try:
            selectors = [entry.split(":") for entry in str(chosen["selectors"]).split(",")]
            named = [(name.strip(), float(threshold)) for name, threshold in selectors]
            ns = [int(n) for n in str(chosen["latents"]).split(",")]
            strengths = [float(strength) for strength in str(chosen["strengths"]).split(",")]
        except ValueError as error:
            raise ConfigError(
                f"Evaluator {evaluator!r}: selectors are written as 'rate:0.01, ratio:0.95', latents as '5, 20' and "
                f"strengths as '1, 4, 16' ({error})."
            ) from error
        return UnlearningOptions(
            **sizes,
            settings=settings_of(named, ns, strengths, "mean"),
            files=str(chosen["files"]),
            files_sha256=str(chosen["files_sha256"]),
        )

    def draws(self, context: EvalContext) -> Draws:
        """The questions and texts of this evaluation seed: those of the table, or of one's own files."""
        sizes = Sizes(
            questions={"forget": self.n_forget, "retain": self.n_retain},
            texts=self.n_texts,
            measured=self.n_measured,
        )
        generator = context.generator("unlearning")
        if self.files:
            return draw_from_files(Path(self.files).expanduser(), self.files_sha256, sizes, generator=generator)
        return draw_from_table(context.table(_TABLE), context.token_ids, sizes, generator=generator)
