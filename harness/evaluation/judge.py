"""A judge: a language model that is asked in words, behind an OpenAI-compatible endpoint. Loads no torch.

Each reply is kept in a file addressed by the sha256 of what was asked (model, messages, length), so that nothing is
paid for twice and an interrupted run goes on where it stopped. The key is read from the environment, sent in one header
and written nowhere.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import json
import math
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import platformdirs

from ..errors import ConfigError, HarnessError, NotEvaluatedError

URL, MODEL, KEY = "SAE_HARNESS_JUDGE_URL", "SAE_HARNESS_JUDGE_MODEL", "SAE_HARNESS_JUDGE_KEY"
"""What an endpoint is taken from where no option names it."""
LOCAL = "SAE_HARNESS_JUDGE_LOCAL"
"""A model on this machine, used where neither option nor environment names an endpoint."""
CACHE = "SAE_HARNESS_CACHE"

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_MAX_REPLY_BYTES = 1 << 22
_READ_OF_FAILURE, _SHOWN = 1 << 16, 400
"""Bytes read of a failure's text, and characters told of it: cut after the key is taken out, not through it."""
_CHARACTERS_PER_TOKEN = 3
"""Where a server does not say how many tokens it read: rather too many than too few."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class JudgeError(HarnessError):
    """The judge cannot be asked, or gives no usable reply."""


class JudgeBudgetError(JudgeError):
    """The next question could cost more than is left."""


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    content: str


class Completion(NamedTuple):
    """A reply and what it took."""

    text: str
    tokens_in: int
    tokens_out: int
    wasted: int = 0
    """Tokens of replies before it that were no use, and may have been charged."""


class Backend(Protocol):
    """What answers."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a reply depends on besides the messages; holds no secret."""
        ...

    def complete(self, messages: Sequence[Message], max_tokens: int) -> Completion:
        """The reply, of at most `max_tokens` tokens, as deterministic as the backend allows."""
        ...


@runtime_checkable
class ListingBackend(Backend, Protocol):
    """A backend that can be held to lists of numbers, so that a model that follows no instruction can be scored."""

    def complete_list(self, messages: Sequence[Message], most: int, max_tokens: int) -> Completion:
        """The reply, held to "None" or to ascending numbers from 1 to `most`, such as "2, 5"."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What all questions of one run may take together, cached ones left out."""

    max_tokens: int = 2_000_000
    """Read and written."""
    max_usd: float = math.inf
    usd_per_million_in: float = 0.0
    usd_per_million_out: float = 0.0

    def __post_init__(self) -> None:
        prices = (self.max_tokens, self.max_usd, self.usd_per_million_in, self.usd_per_million_out)
        if any(math.isnan(value) or value < 0 for value in prices):
            raise ConfigError(f"A judge's budget and prices must be 0 or more: got {prices}.")
        if self.max_usd < math.inf and not (self.usd_per_million_in or self.usd_per_million_out):
            raise ConfigError("A judge's budget in dollars needs its prices: give usd_per_million_in and _out.")

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        """What tokens cost."""
        return (tokens_in * self.usd_per_million_in + tokens_out * self.usd_per_million_out) / 1e6


class Judge:
    """Answers questions from its cache, else from the backend while the budget lasts."""

    def __init__(self, backend: Backend, folder: Path | None, budget: Budget | None = None) -> None:
        """Without a folder nothing is kept."""
        self._backend, self._folder = backend, folder
        self._budget = Budget() if budget is None else budget
        self.calls = 0
        """Asked of the backend."""
        self.tokens_in, self.tokens_out = 0, 0
        """Of those calls."""

    @property
    def identity_sha256(self) -> str:
        """Of what replies depend on besides the messages."""
        return hashlib.sha256(json.dumps(dict(self._backend.identity), sort_keys=True).encode()).hexdigest()

    def ask(self, messages: Sequence[Message], max_tokens: int, *, listing: int = 0) -> Completion:
        """The reply to a conversation; with `listing`, a list of numbers up to it where the backend can be held to one.

        Raises:
            JudgeBudgetError: it could cost more than is left.
            JudgeError: the backend fails.
        """
        request = {
            "judge": dict(self._backend.identity),
            "messages": [message._asdict() for message in messages],
            "max_tokens": max_tokens,
        }
        held = self._backend if listing and isinstance(self._backend, ListingBackend) else None
        if held is not None:
            request["listing"] = listing
        body = json.dumps(request, sort_keys=True)
        path = self._path(hashlib.sha256(body.encode()).hexdigest())
        if (found := _read(path)) is not None:
            return found
        self._refuse_overspending(sum(len(message.content) for message in messages), max_tokens)
        if held is None:
            reply = self._backend.complete(messages, max_tokens)
        else:
            reply = held.complete_list(messages, listing, max_tokens)
        self.calls += 1
        self.tokens_in += reply.tokens_in + reply.wasted
        self.tokens_out += reply.tokens_out
        _write(path, {"request": request, "reply": reply._asdict()})
        return reply

    def _path(self, key: str) -> Path | None:
        return None if self._folder is None else self._folder / key[:2] / f"{key}.json"

    def _refuse_overspending(self, n_characters: int, max_tokens: int) -> None:
        read = self.tokens_in + math.ceil(n_characters / _CHARACTERS_PER_TOKEN)
        written = self.tokens_out + max_tokens
        usd, budget = self._budget.usd(read, written), self._budget
        if read + written <= budget.max_tokens and usd <= budget.max_usd:
            return
        kept = " Replies so far are kept, so a run with a larger budget goes on from here." if self._folder else ""
        raise JudgeBudgetError(
            f"The judge's budget is spent after {self.calls} calls: the next could bring it to {read + written} tokens "
            f"(allowed {budget.max_tokens}) and {usd:.4f} USD (allowed {budget.max_usd:g}).{kept}"
        )


def _read(path: Path | None) -> Completion | None:
    """A kept reply; None where there is none, or its file is damaged."""
    if path is None or not path.is_file():
        return None
    try:
        reply = json.loads(path.read_text(encoding="utf-8"))["reply"]
        return Completion(str(reply["text"]), int(reply["tokens_in"]), int(reply["tokens_out"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # asked again, and written anew


def _write(path: Path | None, content: Mapping[str, Any]) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How a failing endpoint is tried again."""

    retries: int = 5
    timeout_s: float = 60.0
    first_wait_s: float = 1.0
    """Doubled after each failure, unless the server says how long to wait (Retry-After)."""
    longest_wait_s: float = 60.0
    sleep: Callable[[float], None] = time.sleep


class Endpoint:
    """A model behind `POST {url}/chat/completions`."""

    def __init__(self, url: str, model: str, key: str = "", patience: Patience | None = None) -> None:
        """`url` as OpenAI's clients take it, ending in /v1 as a rule; `key` may be empty.

        Raises:
            ConfigError: the URL is none, holds a password, or would carry the key unencrypted to another machine.
        """
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("The judge's url must be http(s)://HOST/PATH, such as http://localhost:8000/v1.")
        if parts.username or parts.password or parts.query:
            raise ConfigError("The judge's url must hold no user, password or query: give the key in the environment.")
        if not model:
            raise ConfigError(f"The judge at {url} needs a model: give the option model, or set {MODEL}.")
        if key and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise ConfigError(f"The judge's key would go to {parts.hostname} unencrypted: use https, or leave it out.")
        if not key.isascii() or any(c.isspace() for c in key):
            raise ConfigError("The judge's key has spaces, line ends or characters that a header cannot hold.")
        self._url = (
            url.rstrip("/") if url.rstrip("/").endswith("/completions") else f"{url.rstrip('/')}/chat/completions"
        )
        self._model, self._key, self._patience = model, key, Patience() if patience is None else patience
        self._open = urllib.request.build_opener(_NoRedirect()).open

    @property
    def identity(self) -> Mapping[str, Any]:
        """Address and model."""
        return {"kind": "endpoint", "url": self._url, "model": self._model, "temperature": 0}

    def complete(self, messages: Sequence[Message], max_tokens: int) -> Completion:
        """The reply; failures that may pass are tried again.

        Raises:
            JudgeError: it is refused, or fails too often.
        """
        body = json.dumps(
            {
                "model": self._model,
                "messages": [message._asdict() for message in messages],
                "max_tokens": max_tokens,
                "temperature": 0,
            }
        ).encode()
        wait, wasted = self._patience.first_wait_s, 0
        for attempt in range(self._patience.retries + 1):
            try:
                reply = _completion(self._post(body), messages)
                return reply._replace(text=self._redacted(reply.text), wasted=wasted)
            except _Passing as failure:
                wasted += failure.wasted
                if attempt == self._patience.retries:
                    raise JudgeError(
                        f"The judge at {self._url} failed {attempt + 1} times; last: {self._told(failure.what)}. "
                        "Try again later: replies so far are kept."
                    ) from None
                asked = wait if failure.wait_s is None else failure.wait_s
                self._patience.sleep(min(asked, self._patience.longest_wait_s))
                wait = min(2 * wait, self._patience.longest_wait_s)
        raise AssertionError("the last attempt returns or raises")

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "sae-harness"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, data=body, headers=headers, method="POST")
        try:
            with self._open(request, timeout=self._patience.timeout_s) as response:
                return response.read(_MAX_REPLY_BYTES)
        except urllib.error.HTTPError as error:
            told = f"HTTP {error.code}: {_shown(error)}"
            if error.code in _RETRIED:
                raise _Passing(told, _retry_after(error.headers.get("Retry-After"))) from None
            raise JudgeError(f"The judge at {self._url} refuses: {self._told(told)}.") from None
        except (OSError, http.client.HTTPException) as error:
            # Timeouts, refused and broken connections.
            raise _Passing(f"{type(error).__name__}: {error}") from None

    def _told(self, text: str) -> str:
        return self._redacted(text)[:_SHOWN]

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


class _Passing(Exception):
    """A failure that may pass."""

    def __init__(self, what: str, wait_s: float | None = None, wasted: int = 0) -> None:
        super().__init__(what)
        self.what, self.wait_s, self.wasted = what, wait_s, wasted


def _completion(raw: bytes, messages: Sequence[Message]) -> Completion:
    read = math.ceil(sum(len(message.content) for message in messages) / _CHARACTERS_PER_TOKEN)
    try:
        reply = json.loads(raw)
        text = reply["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            raise TypeError(f"content is {type(text).__name__}")
        usage = reply.get("usage") or {}
        tokens_in = int(usage.get("prompt_tokens") or read)
        tokens_out = int(usage.get("completion_tokens") or math.ceil(len(text) / _CHARACTERS_PER_TOKEN))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        begins = raw[:_READ_OF_FAILURE].decode("utf-8", "replace")
        wasted = read + math.ceil(len(raw) / _CHARACTERS_PER_TOKEN)
        what = f"no chat completion ({type(error).__name__}: {error}) in {begins!r}"
        raise _Passing(what, wasted=wasted) from None
    return Completion(text, tokens_in, tokens_out)


def _shown(error: urllib.error.HTTPError) -> str:
    try:
        return " ".join(error.read(_READ_OF_FAILURE).decode("utf-8", "replace").split()) or error.reason
    except OSError:
        return str(error.reason)


def _retry_after(header: str | None) -> float | None:
    """Seconds, of a number or a date; None where there is neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def cache_root(environ: Mapping[str, str] | None = None) -> Path:
    """The cache folder that the environment names, else the user's."""
    given = os.environ if environ is None else environ
    own = given.get(CACHE) or platformdirs.user_cache_dir("sae-harness", appauthor=False)
    return Path(own).expanduser().absolute()


def local_of(url: str, environ: Mapping[str, str] | None = None) -> str:
    """The local model that the environment names as judge, where nothing names an endpoint; else empty."""
    given = os.environ if environ is None else environ
    return "" if url or given.get(URL) else given.get(LOCAL, "")


def endpoint_of(
    url: str,
    model: str,
    key_variable: str = "",
    environ: Mapping[str, str] | None = None,
    patience: Patience | None = None,
) -> Endpoint:
    """The endpoint that options name, else the environment.

    Raises:
        DataError: neither does.
        ConfigError: it cannot be used, or the variable that should hold the key does not exist.
    """
    given = os.environ if environ is None else environ
    if not (url or given.get(URL)):
        raise NotEvaluatedError(
            f"not evaluated: no judge is configured. Set {URL} and {MODEL} (and {KEY} where one is needed) to an "
            f"OpenAI-compatible endpoint, or {LOCAL} to a model on this machine, such as fetched:smollm2; or give the "
            "evaluator's options: judge: endpoint, url and model; or judge: local and model."
        )
    if key_variable and key_variable not in given:
        raise ConfigError(f"The judge's key should be in the environment variable {key_variable}, which is not set.")
    key = given.get(key_variable or KEY, "")
    return Endpoint(url or given[URL], model or given.get(MODEL, ""), key.strip(), patience)
