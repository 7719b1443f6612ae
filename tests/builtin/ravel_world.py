"""A world of entities with two attributes, each along one direction, and an LM that reads them from the entity's last
token: what swapping must do is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.evaluation.context import StoreEvalContext
from harness.interfaces.prompts import PromptBatch
from harness.interfaces.sae import SAE, SAEConfig
from harness.testing.fixtures import D_IN, HOOKPOINT, tiny_store

N_ENTITIES, FIRST_ENTITY, LEVELS = 160, 100, 3
QUESTIONS = {1: 0, 2: 0, 3: 1, 4: 1}
"""Token of a question -> the attribute it asks for."""
ANSWERS = ((10, 11, 12), (20, 21, 22))
"""Token of each level, by attribute."""
VOCAB = FIRST_ENTITY + N_ENTITIES


def levels() -> Tensor:
    """[entities, 2] int64: 0 to 2 of each attribute."""
    return torch.randint(0, LEVELS, (N_ENTITIES, 2), generator=torch.Generator().manual_seed(0))


def embed(tokens: Tensor) -> Tensor:
    """[b, s, 16]: an entity's two levels (1 to 3) and five numbers of its own; a question's flag."""
    own = torch.rand(VOCAB, 5, generator=torch.Generator().manual_seed(1))
    table = torch.zeros(VOCAB, D_IN)
    table[FIRST_ENTITY:, :2] = levels() + 1.0
    table[FIRST_ENTITY:, 2:7] = own[FIRST_ENTITY:]
    for question in QUESTIONS:
        table[question, 8 + question] = 1.0
    return table[tokens]


class ReadingLM:
    """Answers a question with the level it reads at the token before. `deaf` reads the token and not its activation;
    `ignorant` answers the attributes with one token each."""

    vocab_size = VOCAB

    def __init__(self, *, deaf: bool = False, ignorant: bool = False) -> None:
        self.deaf, self.ignorant = deaf, ignorant
        self.n_runs = 0

    def logits(self, tokens: Tensor) -> Tensor:
        return self.run_with_replacement(tokens, HOOKPOINT, lambda given: given)

    def run_with_replacement(
        self,
        tokens: Tensor,
        hookpoint: str,
        replace: Callable[[Tensor], Tensor],
        *,
        activations: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        self.n_runs += 1
        assert len(tokens), "transformers' models refuse an empty batch"
        x = replace(embed(tokens) if activations is None else activations)
        read = embed(tokens) if self.deaf else x
        logits = torch.full((*tokens.shape, VOCAB), -100.0)
        for question, attribute in QUESTIONS.items():
            row, at = (tokens == question).nonzero(as_tuple=True)
            level = read[row, at - 1, attribute] * (0.0 if self.ignorant else 1.0)
            for number, answer in enumerate(ANSWERS[attribute], start=1):
                logits[row, at, answer] = 2 * number * level - number**2
        return logits if positions is None else logits[:, positions]


class ReadingTexts:
    """Questions about the entities; numbers are tokens. `answers` may put other words in the table."""

    def __init__(self, answers: Callable[[int, int], list[str]] | None = None) -> None:
        self._answers = answers or (lambda attribute, level: [str(ANSWERS[attribute][level])])

    def missing(self, collections: Iterable[str]) -> str:
        return ""

    def table(self, name: str) -> tuple[Mapping[str, Any], ...]:
        asked = [{"attribute": "ab"[a], "before": "5", "after": f" {q}"} for q, a in QUESTIONS.items()]
        known = [
            {"name": str(FIRST_ENTITY + e), "a": self._answers(0, a), "b": self._answers(1, b)}
            for e, (a, b) in enumerate(levels().tolist())
        ]
        return (*asked, *known)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [[int(number) for number in text.split()] for text in texts]

    def prompt_batches(self, prompts: Sequence[Sequence[str]], max_tokens: int | None) -> Iterator[PromptBatch]:
        lengths: dict[int, list[int]] = {}
        rows = []
        for prompt in prompts:
            rows.append([(p, t) for p, ids in enumerate(self.token_ids(prompt)) for t in ids])
            lengths.setdefault(len(rows[-1]), []).append(len(rows) - 1)
        # In small batches, as a real LM gets them: no swap is of some of them.
        for same in (part for own in lengths.values() for part in (own[i : i + 8] for i in range(0, len(own), 8))):
            tokens = torch.tensor([[0, *(token for _, token in rows[i])] for i in same])
            part = torch.tensor([[-1, *(part for part, _ in rows[i])] for i in same])
            yield PromptBatch(index=torch.tensor(same), tokens=tokens, part=part, activations=embed(tokens))

    def samples(self, collection: str, sizes: object, seed: int) -> tuple:
        raise NotImplementedError

    def activations(self, texts: Sequence[str], *, max_tokens: int, last_tokens: int) -> Iterator:
        raise NotImplementedError


class DirectionsSAE(SAE):
    """Codes are projections on given directions [m, 16] that are orthonormal and on which no activation is negative."""

    def __init__(self, directions: Tensor) -> None:
        super().__init__(SAEConfig(architecture="directions", d_in=D_IN, d_sae=len(directions)))
        self.directions = torch.nn.Parameter(directions, requires_grad=False)

    def reset_parameters(self, generator: torch.Generator) -> None:
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        return (x @ self.directions.T).relu()

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.directions

    def fold_input_scale(self, scale: float) -> None:
        raise NotImplementedError

    def decoder_directions(self) -> Tensor:
        return self.directions.detach()


def context(texts: ReadingTexts | None = None, seed: int = 0, **lm: bool) -> StoreEvalContext:
    return StoreEvalContext(
        tiny_store(1, n_sequences=3),
        hookpoint=HOOKPOINT,
        data_id="reading",
        seed=seed,
        language_model=ReadingLM(**lm),
        lm_sha256="reading",
        texts=texts or ReadingTexts(),  # type: ignore[arg-type]
    )
