"""How latents and concepts fire on what is to be forgotten and on the rest: in a world, or on an LM's texts."""

from __future__ import annotations

from harness import SAE, DataError, EvalContext
from harness.evaluation.unlearning import Firings

from .levels import levels_of
from .side_effects import World
from .texts import TextInterventions, TextTask


def sides(sae: SAE, context: EvalContext) -> dict[str, tuple[Firings, Firings]]:
    """`latents`, and `concepts` where the SAE has two levels: on tokens to be forgotten and others, of the half that
    things are chosen on.

    Raises:
        DataError: there is no token of one kind; or neither a world nor texts to be forgotten.
    """
    levels = levels_of(sae)
    if has_world(context):
        world = World(sae, context)
        found = {"latents": world.firings(world.codes, sae.config.d_sae)}
        if levels is not None:
            found["concepts"] = world.firings(levels.concepts(world.codes), levels.n_concepts)
        return found
    interventions = TextInterventions(TextTask(sae, context))
    return {"latents": (interventions.forget, interventions.retain), **interventions.of_concepts}


def has_world(context: EvalContext) -> bool:
    """Whether it is known which features the tokens are sums of."""
    try:
        return context.truth is not None
    except DataError:
        return False
