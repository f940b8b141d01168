"""Chat completions of an OpenAI-compatible endpoint, with retries; the standard library alone."""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import os
import random
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from groma_eval.core import HarnessError
from groma_eval.judge.prompts import Messages
from groma_eval.judge.settings import JudgeSettings

_LONGEST_WAIT = 60.0  # seconds between two tries, where the endpoint does not say
_LONGEST_ASKED = 600.0  # ... and where it does
_LONGEST_ANSWER = 10_000_000  # bytes
_RETRIED = frozenset({408, 409, 425, 429})
_WRONG_CALL = {
    401: "refuses the key (HTTP 401)",
    403: "refuses the key (HTTP 403)",
    404: "has no such address or model (HTTP 404)",
}


class CallFailed(Exception):
    """One request failed for good; others may go through. One line."""


class Stopped(Exception):
    """The run was stopped while a request waited."""


class _Transient(Exception):
    """A failure that may pass. ``wait``: seconds that the endpoint asks for. ``first``: it tells a wrong address where
    nothing has gone through yet."""

    def __init__(self, reason: str, wait: float | None = None, first: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.first = first


@dataclass(frozen=True)
class Completion:
    """A judge's answer; ``served`` is the model that the endpoint says it used."""

    content: str
    served: str | None
    prompt_tokens: int
    completion_tokens: int


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected request would carry the key to another host, so there is none."""

    def redirect_request(self, *args: Any) -> None:
        return None


def as_option(name: str) -> str:
    """How messages spell a setting that a command takes as an option of its own."""
    return f"--{name}"


class Client:
    """Asks one judge, or another model that messages call ``name``; safe to use from several threads. Waiting ends when
    ``stop`` is set.

    ``key`` takes the place of the environment variable's; ``spelled`` is how messages name a setting to change.

    Raises HarnessError where the key's variable is not set or holds no key.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        stop: threading.Event | None = None,
        name: str = "the judge",
        key: str | None = None,
        spelled: Callable[[str], str] = as_option,
    ) -> None:
        self.settings = settings
        self.name = name
        self.spelled = spelled
        self.stop = stop or threading.Event()
        self.answered = False  # something went through: the address and the key are right
        self._key = read_key(settings, name, spelled) if key is None else key
        self._url = settings.base_url.rstrip("/") + "/chat/completions"
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._random = random.Random()

    def complete(self, messages: Messages, decoding: Mapping[str, Any] | None = None) -> Completion:
        """The judge's answer to ``messages``; ``decoding`` takes the place of the settings'.

        Raises:
            HarnessError: no request can go through (key, address, model, or nothing left to pay with).
            CallFailed: this one did not, after all retries or because the endpoint refuses its content.
            Stopped: ``stop`` was set meanwhile.
        """
        decoding = self.settings.decoding if decoding is None else decoding
        body = json.dumps({"model": self.settings.model, "messages": messages, **decoding}).encode()
        for attempt in range(self.settings.retries + 1):
            if self.stop.is_set():
                raise Stopped
            try:
                completion = self._ask(body)
            except _Transient as failure:
                if failure.first and not self.answered:
                    raise HarnessError(f"{self._where()}: {failure}; check {self.spelled('base-url')}") from None
                if attempt == self.settings.retries:
                    tries = f" ({attempt + 1} tries)" if attempt else ""
                    raise CallFailed(f"{self._where()}: {failure}{tries}") from None
                if self.stop.wait(self._pause(attempt, failure.wait)):
                    raise Stopped from None
            else:
                self.answered = True
                return completion
        raise AssertionError("the last try returns or raises")

    def _where(self) -> str:
        return f"{self.name} at {self.settings.base_url}"

    def _pause(self, attempt: int, asked: float | None) -> float:
        if asked is not None:
            return min(asked, _LONGEST_ASKED)
        # Half of it at random, so that requests that failed together do not come back together.
        return min(self.settings.backoff_s * 2**attempt, _LONGEST_WAIT) * self._random.uniform(0.5, 1.0)

    def _ask(self, body: bytes) -> Completion:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(self._url, body, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self.settings.timeout_s) as response:
                content = response.read(_LONGEST_ANSWER)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise _transport(error, self.settings.timeout_s) from None
        return _completion(content)

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        try:
            body = error.read(_LONGEST_ANSWER)
        except (OSError, http.client.HTTPException):
            body = b""
        # An endpoint may quote the key that it was sent.
        said, code = _error_of(body.replace(self._key.encode(), b"***"))
        said = f": {said}" if said else ""
        if error.code in _WRONG_CALL:
            return HarnessError(f"{self._where()} {_WRONG_CALL[error.code]}{said}")
        if code == "insufficient_quota":
            return HarnessError(f"{self._where()} has no credit left for this key{said}")
        if 300 <= error.code < 400:
            return HarnessError(f"{self._where()} redirects (HTTP {error.code}); give the address it leads to")
        if error.code in _RETRIED or error.code >= 500:
            return _Transient(f"HTTP {error.code}{said}", retry_after(error.headers))
        return CallFailed(f"{self._where()}: HTTP {error.code}{said}")


def read_key(settings: JudgeSettings, whose: str = "the judge", spelled: Callable[[str], str] = as_option) -> str:
    """The key from the environment; HarnessError (which never shows it) where there is none or it cannot be one."""
    name = settings.api_key_env
    key = os.environ.get(name, "").strip()
    if not key:
        raise HarnessError(
            f"no key for {whose}: the environment variable {name} is not set (another one: "
            f"{spelled('api-key-env')} NAME; an endpoint that needs no key takes any text)"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise HarnessError(f"the environment variable {name} holds no key: it has blanks or unprintable characters")
    return key


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the ``Retry-After`` header (seconds or a date), None where it says nothing usable."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _transport(error: Exception, timeout: float) -> _Transient:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return _Transient(f"no answer within {timeout:g} s")
    if isinstance(reason, socket.gaierror):
        return _Transient("there is no such host", first=True)
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _Transient(f"its certificate is not accepted ({reason.verify_message})", first=True)
    if isinstance(reason, ConnectionRefusedError):
        return _Transient("nothing listens there (connection refused)", first=True)
    return _Transient(f"the connection failed ({str(reason) or type(reason).__name__})")


def _completion(content: bytes) -> Completion:
    try:
        answer = json.loads(content)
        text = answer["choices"][0]["message"]["content"]
        usage = answer.get("usage") or {}
        served = answer.get("model")
        counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise _Transient("an answer that is no chat completion") from None
    if not isinstance(text, str | None):
        raise _Transient("an answer that is no chat completion")
    tokens = [count if isinstance(count, int) else 0 for count in counts]
    return Completion(text or "", served if isinstance(served, str) else None, *tokens)


def _error_of(body: bytes) -> tuple[str, str]:
    """Message and code of an OpenAI-style error body, the message as one short line."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    error = content.get("error", content) if isinstance(content, dict) else None
    if isinstance(error, str):
        return _short(error), ""
    if not isinstance(error, dict):
        return "", ""
    message = error.get("message")
    return _short(message) if isinstance(message, str) else "", str(error.get("code"))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:197] + "..."
