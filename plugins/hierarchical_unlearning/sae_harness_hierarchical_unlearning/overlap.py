"""The analysis `selected_overlap`: whether two training seeds select the same latents to be clamped."""

from __future__ import annotations

import torch
from torch import Tensor

from harness import SAE, Analysis, AnalysisResult, DataError, EvalContext, Figure, Line, Panel, Table, TrainingLog
from harness.evaluation.unlearning import Setting, random_matched

from .sides import sides

_SELECTORS = (("rate", 0.01), ("ratio", 0.95), ("information", 1.0), ("attribution", 0.1))
_NS = (4, 8, 16, 32, 64)
_CHUNK = 4096


class SelectedOverlap(Analysis):
    """A latent of one SAE is found again where the other's latent nearest to it in decoder direction is selected too.

    The null: as many random latents of the other SAE that fire about as often on what is to be kept.
    """

    compares = True

    def run(self, sae: SAE, context: EvalContext, training: TrainingLog) -> AnalysisResult:
        """Shares of selected latents found again, both ways, for every selector that the data allow.

        Raises:
            DataError: there is no other SAE, or neither a world nor texts to forget.
        """
        if self.reference is None:
            raise DataError("selected_overlap needs another SAE: name one with --reference, such as of another seed.")
        pair = (sae, self.reference.sae)
        firings = [sides(each, context)["latents"] for each in pair]
        nearest = [_nearest(pair[0], pair[1]), _nearest(pair[1], pair[0])]
        rows: list[list[float | int | str]] = []
        lines: list[Line] = []
        values: dict[str, float | int | str | None] = {"reference": self.reference.label}
        for name, threshold in _SELECTORS:
            if name == "attribution" and firings[0][0].attribution is None:
                continue
            own = []
            for n in _NS:
                setting = Setting(selector=name, threshold=threshold, n=n, strength=1.0, unit="mean")
                chosen = [setting.latents(*found) for found in firings]
                found = _found_again(chosen, chosen, nearest)
                random = [
                    random_matched(latents, *told, context.generator(f"matched {side}"))
                    for side, (latents, told) in enumerate(zip(chosen, firings, strict=True))
                ]
                null = _found_again(chosen, random, nearest)
                own.append((n, found, null))
                rows.append([f"{name}:{threshold:g}", n, min(map(len, chosen)), found, null])
            values[f"{name}/overlap"], values[f"{name}/null"] = own[2][1], own[2][2]
            lines.append(Line(label=name, x=_NS, y=[found for _, found, _ in own]))
            lines.append(Line(label=f"{name}, random", x=_NS, y=[null for _, _, null in own], dashed=True))
        return AnalysisResult(
            values=values,
            tables={"overlap": Table(columns=("selector", "latents", "selected", "found_again", "null"), rows=rows)},
            figures=(_figure(lines),),
            notes=(f"Values are those at {_NS[2]} latents.",),
        )


def _figure(lines: list[Line]) -> Figure:
    return Figure(
        name="selected_overlap",
        title="Latents that two SAEs both select",
        panels=(
            Panel(marks=lines, x_label="latents selected", y_label="share found again in the other SAE", x_scale="log"),
        ),
        columns=1,
        caption="Dashed: against as many random latents of the other SAE that fire about as often.",
    )


@torch.no_grad()
def _nearest(sae: SAE, other: SAE) -> Tensor:
    """[d_sae] int64: the other's latent of largest cosine to each, by what they write."""
    rows, theirs = (torch.nn.functional.normalize(each.decoder_directions().float(), dim=1) for each in (sae, other))
    return torch.cat([(part @ theirs.t()).argmax(1) for part in rows.split(_CHUNK)]).cpu()


def _found_again(chosen: list[Tensor], among: list[Tensor], nearest: list[Tensor]) -> float:
    """Mean of both ways: share of latents chosen in one SAE whose nearest in the other is `among` those; 0 where none
    is chosen."""
    shares = [
        float(torch.isin(nearest[side][chosen[side]], among[1 - side]).double().mean())
        for side in (0, 1)
        if len(chosen[side])
    ]
    return sum(shares) / len(shares) if shares else 0.0
