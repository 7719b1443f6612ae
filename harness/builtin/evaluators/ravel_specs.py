"""What the RAVEL evaluators measure: specs alone, so that listing them loads no torch."""

from __future__ import annotations

from harness import EvaluatorSpec, MetricSpec

_RAVEL = "Huang et al. 2024, arXiv:2402.17700"
_SAEBENCH = "Karvonen et al. 2025, arXiv:2503.09532 (SAEBench 0.6.0)"

_SWAP = (
    "pairs of prompts that ask the same attribute of two entities and differ in the answer's first token; at the last "
    "token of the base's entity, x becomes x + decode(z') - decode(z), where z' has the chosen latents' values from "
    "the source's entity"
)
_CHOSEN = (
    "chosen latents, for each attribute: the first k of one of two rankings on training entities (variance between "
    "answers in units of activations, weighted by its share over that of other attributes; weights of linear probes), "
    "both by mean of cause and isolation on validation entities"
)
_MEAN = "mean over attributes on test entities, which are in no other part"
_CAUSE = "share of base prompts whose likeliest next token begins the source's answer"
_ISOLATION = (
    "share of base prompts asking for another attribute, in which the two entities differ too, whose likeliest next "
    "token still begins the base's answer"
)


def _share(name: str, formula: str, **options: object) -> MetricSpec:
    known: dict[str, object] = {"better": "none", "bounds": (0.0, 1.0), "reference": _RAVEL, "compared": False}
    return MetricSpec(name=name, formula=formula, **{**known, **options})  # type: ignore[arg-type]


RAVEL = EvaluatorSpec(
    name="ravel",
    target="harness.builtin.evaluators.ravel:RavelEvaluator",
    summary="Whether a few latents carry one attribute of an entity and no other: country, continent, language.",
    reference=_RAVEL,
    needs=frozenset({"language_model"}),
    texts=("cities",),
    planted="harness.builtin.evaluators.ravel_planted:rows",
    metrics=(
        _share(
            "ravel_disentanglement",
            f"(cause + isolation) / 2, {_MEAN}; changing nothing and swapping the whole activation both score about "
            f"1/2; {_SWAP}; {_CHOSEN}. Standard errors are over base entities. Mends SAEBench's: entities of training "
            "and test are disjoint, what the SAE leaves unexplained stays, and no pair is called isolation because two "
            "answers begin alike",
            better="higher",
            chance=0.5,
            compared=True,
        ),
        _share("ravel_cause", f"{_CAUSE}, {_MEAN}; {_SWAP}; {_CHOSEN}", better="higher", compared=True),
        _share("ravel_isolation", f"{_ISOLATION}, {_MEAN}; {_SWAP}; {_CHOSEN}", better="higher", compared=True),
        _share("ravel_ceiling_cause", f"{_CAUSE} when its whole activation becomes the source's, {_MEAN}: the ceiling"),
        _share(
            "ravel_ceiling_isolation",
            f"{_ISOLATION} when its whole activation becomes the source's, {_MEAN}: what isolation costs",
        ),
        _share(
            "ravel_random_cause",
            f"ravel_cause with as many latents drawn at random from those active on training entities, {_MEAN}",
        ),
        _share(
            "ravel_random_isolation",
            f"ravel_isolation with as many latents drawn at random from those active on training entities, {_MEAN}",
        ),
        MetricSpec(
            name="ravel_latents",
            better="none",
            unit="latents",
            bounds=(0.0, None),
            formula=(
                "mean over attributes of the number of latents chosen; detail, by attribute: k, ranking (0 variance, "
                "1 probe), cause and isolation on validation entities"
            ),
            compared=False,
        ),
        MetricSpec(
            name="ravel_entities",
            better="none",
            unit="entities",
            bounds=(0.0, None),
            formula="entities of which the LM knows an attribute that counts; n is how many were asked about",
            compared=False,
        ),
        MetricSpec(
            name="ravel_pairs",
            better="none",
            unit="pairs",
            bounds=(0.0, None),
            formula=(
                "(entity, attribute) pairs that the LM knows: its likeliest next token begins the right answer, and no "
                "other answer that begins alike goes on more likely, under most templates; n is how many were asked. "
                "An attribute counts with 24, 8 and 16 known entities to train, choose and test on; detail, by "
                "attribute: counts (1) or not (0), pairs asked, pairs known, of these to train, choose and test on, "
                "share of prompts answered right"
            ),
            compared=False,
        ),
    ),
)

SAEBENCH_RAVEL = EvaluatorSpec(
    name="saebench_ravel",
    target="harness.builtin.evaluators.saebench_ravel:SAEBenchRavelEvaluator",
    summary="RAVEL as SAEBench defines it: a mask over latents trained by gradients through the LM.",
    reference=_SAEBENCH,
    needs=frozenset({"language_model"}),
    texts=("cities",),
    planted="harness.builtin.evaluators.ravel_planted:rows",
    metrics=tuple(
        _share(
            f"saebench_ravel_{name}",
            f"{what}; SAEBench's definition: for each attribute a binary mask over latents, trained with Adam from 0 "
            "(learning rate 1e-3, 2 epochs, sigmoid of temperature 1 to 1e-4) on the cross-entropy of the wanted first "
            "token; the decoded mixture is put in without the SAE's error; 70 % of the pairs train and 30 % test, "
            "split by pair, so that entities are in both; a pair is isolation where the wanted token is the base's. "
            "Differs in that an answer is read off its first token, where SAEBench generates six",
            better="higher",
            reference=_SAEBENCH,
            chance=0.5 if name == "disentanglement" else None,
        )
        for name, what in (
            ("disentanglement", "(cause + isolation) / 2, mean over attributes"),
            ("cause", "share of pairs, attribute swapped, that answer as the source, mean over attributes"),
            ("isolation", "share of pairs of other attributes that answer as the base, mean over attributes"),
        )
    ),
)
