"""A judge on this machine: a causal language model of transformers, answering greedily."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..activations.language_model import load_language_model
from ..activations.sources import resolve_lm
from ..config import LMConfig
from .judge import Completion, JudgeError, Message


class LocalJudge:
    """Replies are a function of weights, tokenizer and messages. The model is loaded for the first reply that is in no
    cache."""

    def __init__(self, source: str, cache_root: Path, *, device: torch.device | str = "cpu") -> None:
        """`source` as in a suite's `lm.source`: a folder, `fetched:NAME`, `package:PACKAGE` or a hub id.

        Raises:
            MissingModelError: it is not here.
        """
        config = LMConfig(source=source)
        self._lm = load_language_model(config, resolve_lm(config, cache_root), device=device)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Hashes of weights and tokenizer."""
        return {
            "kind": "local",
            "weights": self._lm.weights_sha256,
            "tokenizer": self._lm.tokenizer_sha256,
            "dtype": self._lm.config.dtype,
        }

    def complete(self, messages: Sequence[Message], max_tokens: int) -> Completion:
        """The greedy reply.

        Raises:
            JudgeError: messages and reply are longer than the model takes.
        """
        return self._generated(messages, max_tokens, None)

    def complete_list(self, messages: Sequence[Message], most: int, max_tokens: int) -> Completion:
        """The greedy reply among "None" and ascending numbers from 1 to `most`; what `max_tokens` cuts through is left
        out.

        Raises:
            JudgeError: messages and reply are longer than the model takes, or its tokens cannot write such a list.
        """
        reply = self._generated(messages, max_tokens, most)
        text = reply.text
        while text and not _is_list(text, most):
            text = text[:-1]
        return reply._replace(text=text or "None")

    @torch.no_grad()
    def _generated(self, messages: Sequence[Message], max_tokens: int, most: int | None) -> Completion:
        tokenizer = self._lm.tokenizer
        text, special = _prompt(tokenizer, messages)
        ids = tokenizer([text], add_special_tokens=special, return_tensors="pt")["input_ids"].to(self._lm.device)
        n, longest = ids.shape[1], self._lm.max_positions
        if longest is not None and n + max_tokens > longest:
            raise JudgeError(
                f"The judge {self._lm.name!r} takes {longest} tokens; the question has {n} and the reply up to "
                f"{max_tokens}: choose a judge with a longer context, or shorter texts (max_words)."
            )
        written = self._lm.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
            prefix_allowed_tokens_fn=None if most is None else self._allowed(n, most),
        )[0, n:]
        return Completion(tokenizer.decode(written, skip_special_tokens=True), n, len(written))

    def _allowed(self, start: int, most: int) -> Callable[[int, Tensor], list[int]]:
        """Which tokens keep the text after position `start` the beginning of a list."""
        ends = self._lm.model.generation_config.eos_token_id
        ends = (
            list(ends)
            if isinstance(ends, (list, tuple))
            else [self._lm.tokenizer.eos_token_id if ends is None else ends]
        )

        def allowed(_batch: int, ids: Tensor) -> list[int]:
            own = ids[start:].tolist()
            found = [token for token in self._pieces if _may_become(self._lm.tokenizer.decode([*own, token]), most)]
            if _is_list(self._lm.tokenizer.decode(own), most):
                found += ends
            if not found:
                raise JudgeError(f"The tokens of the judge {self._lm.name!r} cannot write a list of numbers.")
            return found

        return allowed

    @cached_property
    def _pieces(self) -> list[int]:
        """Tokens that lists are made of."""
        tokenizer = self._lm.tokenizer
        special = set(tokenizer.all_special_ids)
        texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        return [t for t, text in enumerate(texts) if text and t not in special and set(text) <= _LETTERS]


_LETTERS = frozenset("0123456789, None")


def _numbers(text: str) -> list[str] | None:
    """The parts of "2, 5, 11"; None where something else is between them."""
    first, *others = text.split(",")
    if not all(part.startswith(" ") for part in others[:-1]) or (others and others[-1] and others[-1][0] != " "):
        return None
    return [first, *(part[1:] for part in others)]


def _ascending(numbers: Sequence[str], most: int) -> bool:
    known = [int(number) if number.isdigit() and number[0] != "0" else 0 for number in numbers]
    return all(a < b <= most for a, b in zip([0, *known], known, strict=False))


def _is_list(text: str, most: int) -> bool:
    """Whether this is "None", or ascending numbers from 1 to `most`."""
    numbers = _numbers(text)
    return text == "None" or (numbers is not None and _ascending(numbers, most))


def _may_become(text: str, most: int) -> bool:
    """Whether this is the beginning of such a list."""
    if "None".startswith(text):
        return True
    numbers = _numbers(text)
    if numbers is None or not _ascending(numbers[:-1], most):
        return False
    last = int(numbers[-2]) if len(numbers) > 1 else 0
    return any(str(number).startswith(numbers[-1]) for number in range(last + 1, most + 1))


def _prompt(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, bool]:
    """The conversation as one text, and whether special tokens still have to be put before it."""
    if getattr(tokenizer, "chat_template", None):
        turns = [message._asdict() for message in messages]
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True), False
    return "\n\n".join([*(message.content for message in messages), "Answer:"]), True
