"""F34-F39: is the loss what it is said to be? Held by the conformance kit and tests; records can show F34 alone."""

from __future__ import annotations

from collections.abc import Iterator

from ...interfaces.audit import AuditHit
from .evidence import Evidence
from .rule import Rule, each, said
from .tolerances import Tolerances


def not_neighbours(record: Evidence, tolerances: Tolerances) -> Iterator[AuditHit]:
    """F34: codes of tokens that follow each other are no nearer than codes of strangers."""
    if record.hookpoint == "as generated":
        return  # a synthetic world may have no memory
    for name, evaluation in record.evaluations.items():
        real = evaluation.metrics.get("temporal_distance")
        shuffled = evaluation.metrics.get("temporal_distance_shuffled")
        if real is not None and shuffled is not None and real >= shuffled:
            yield AuditHit(
                record=record.name,
                evaluation=name,
                field=f"{evaluation.key}: temporal_distance",
                evidence=(("distance to the previous token", said(real)), ("to a token of elsewhere", said(shuffled))),
            )


RULES = (
    Rule(
        id="F34",
        family="formulation",
        severity="blocker",
        title="The previous token is not the previous token",
        meaning="Rows of a shuffled batch were taken for neighbours: a penalty on their distance is one more L1.",
        mend="Use the batch's pairs (`needs={'pairs'}`), which know document and position.",
        check=each(not_neighbours),
        held_by="also `sae-harness check`: a_batch_of_document_starts_is_no_special_case "
        "(harness/testing/trainer_checks.py), and test_previous_is_the_token_before_in_the_same_sequence "
        "(tests/activations/test_samplers.py).",
    ),
    Rule(
        id="F35",
        family="formulation",
        severity="blocker",
        title="A moving maximum that is a moving average",
        meaning="The largest loss so far is followed too low, and what is adapted to it saturates.",
        mend="The tracker must be at least its last input.",
        held_by="`sae-harness check`: moving_maxima_are_maxima (harness/testing/terms.py), on what diagnostics tell as "
        "a maximum; check_moving_maximum (harness/testing/pieces.py), which a plugin's tests call on its tracker.",
    ),
    Rule(
        id="F36",
        family="formulation",
        severity="blocker",
        title="A weight that is not detached",
        meaning="The gradient goes through the weight: the optimiser may be paid for a worse reconstruction.",
        mend="Give weights as numbers.",
        held_by="`sae-harness check`: no_gradient_flows_through_a_weight and weights_are_numbers_of_the_same_names "
        "(harness/testing/trainer_checks.py).",
    ),
    Rule(
        id="F37",
        family="formulation",
        severity="warning",
        title="A schedule of a quantity with units",
        meaning="A sigmoid of a loss of 100 is a step: the schedule depends on the scale of the activations.",
        mend="Divide by the quantity's own spread first.",
        held_by="`sae-harness check`: schedules_have_no_units (harness/testing/terms.py), on a method as it is by "
        "default; check_schedule (harness/testing/pieces.py) in a plugin's tests. The training log keeps each weight.",
    ),
    Rule(
        id="F38",
        family="formulation",
        severity="blocker",
        title="A correlation that selects nothing",
        meaning="Divided once too often, no pair passes any threshold: the idea never acts.",
        mend="Two identical columns must have correlation 1; log how many pairs are selected.",
        held_by="`sae-harness check`: every_term_acts, every_term_moves_something and selections_select "
        "(harness/testing/terms.py), only_controls_equal_their_base (harness/testing/trainer_checks.py); "
        "check_correlation (harness/testing/pieces.py) in a plugin's tests.",
    ),
    Rule(
        id="F39",
        family="formulation",
        severity="blocker",
        title="Orthogonality of codes in the place of directions",
        meaning="The loss suppresses firing together, not overlapping decoder directions, and costs d_sae² memory.",
        mend="Penalise cosines of decoder rows; log the largest before and after.",
        held_by="`sae-harness check`: orthogonality_is_of_directions (harness/testing/terms.py), on terms so called; "
        "check_competition (harness/testing/pieces.py) in a plugin's tests; memory by memory_estimate "
        "(harness/training/pair_penalties.py) and its measured test.",
    ),
)
