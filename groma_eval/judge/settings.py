"""How a judge is asked, and what that is likely to cost."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from groma_eval.core import HarnessError
from groma_eval.judge.prompts import Messages

#: US dollars a million prompt and completion tokens, as the vendor listed them in 2025. For the estimate only.
PRICES = {
    "gpt-4": (30.0, 60.0),
    "gpt-4-0314": (30.0, 60.0),
    "gpt-4-0613": (30.0, 60.0),
    "gpt-4-turbo": (10.0, 30.0),
    "gpt-4o": (2.5, 10.0),
    "gpt-4o-mini": (0.15, 0.6),
    "gpt-4.1": (2.0, 8.0),
    "gpt-4.1-mini": (0.4, 1.6),
}
#: Tokens of a usual review: the 180 published ones of LLaVA-Bench in the Wild have 524 characters on average.
USUAL_REVIEW = 120


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """Which judge, where, and how it is asked. The defaults are LLaVA-Bench's protocol.

    ``api_key_env`` names the environment variable that holds the key, which is sent to the endpoint and kept nowhere.
    ``concurrency``: requests at a time. ``timeout_s``: how long an endpoint may be silent. ``retries``: how often a
    request that failed (429, 5xx, timeout, connection, junk) is repeated, after ``backoff_s`` seconds, doubled each
    time, or as long as the endpoint says. ``asks``: how often a judge is asked for a review that can be read.
    ``price``: US dollars a million (prompt, completion) tokens; None: as :data:`PRICES` says.
    """

    model: str = "gpt-4-0613"
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float = 0.2
    max_tokens: int = 1024
    concurrency: int = 4
    timeout_s: float = 120.0
    retries: int = 6
    backoff_s: float = 1.0
    asks: int = 3
    price: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _check_url(self.base_url)
        if not self.model.strip():
            raise HarnessError("--judge: the name of the judge's model is empty")
        for name, least in (("concurrency", 1), ("max_tokens", 1), ("asks", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise HarnessError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {least}")
        if not self.timeout_s > 0 or not math.isfinite(self.timeout_s):
            raise HarnessError(f"--timeout {self.timeout_s}: must be above 0 seconds")
        if not self.temperature >= 0 or not math.isfinite(self.temperature):
            raise HarnessError(f"--temperature {self.temperature}: must be 0 or more")
        if self.price and not all(value >= 0 and math.isfinite(value) for value in self.price):
            raise HarnessError(f"--price {self.price}: must be two numbers, 0 or more")

    @property
    def decoding(self) -> dict[str, float | int]:
        """What the judge's answers depend on beside the messages."""
        return {"temperature": float(self.temperature), "max_tokens": self.max_tokens}


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, a bracket left open
        usable, parts = False, None
    if parts and ("@" in parts.netloc or parts.query or parts.fragment):  # not shown: it may be a key
        raise HarnessError("--base-url: must be host and path alone; a key belongs in an environment variable")
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        raise HarnessError(f"--base-url {url}: must be like https://HOST/v1")


@dataclass(frozen=True)
class Estimate:
    """What is left to ask. ``cost`` and ``limit`` in US dollars (None: the price is unknown): with usual reviews, and
    with every review at its token limit; unreadable reviews that are asked for again come on top."""

    questions: int
    kept: int
    prompt_tokens: int
    cost: float | None
    limit: float | None

    def __str__(self) -> str:
        if not self.questions:
            return f"nothing to ask: {self.kept} reviews are there"
        kept = f" ({self.kept} more are there)" if self.kept else ""
        text = f"{self.questions} questions to judge{kept}, about {self.prompt_tokens} prompt tokens; "
        if self.cost is None:
            return text + "the price is not known (give --price IN OUT)"
        return text + f"about ${self.cost:.2f}, at most ${self.limit:.2f} if each is asked once"


def estimate(pending: Iterable[Messages], kept: int, settings: JudgeSettings) -> Estimate:
    """What asking ``pending`` would cost; ``kept`` questions are judged already."""
    tokens = [sum(count_tokens(m["content"]) + 4 for m in messages) for messages in pending]
    price = settings.price or PRICES.get(settings.model)
    if price is None:
        return Estimate(len(tokens), kept, sum(tokens), None, None)
    prompt = sum(tokens) * price[0]
    usual = min(USUAL_REVIEW, settings.max_tokens)
    cost, limit = ((prompt + len(tokens) * each * price[1]) / 1e6 for each in (usual, settings.max_tokens))
    return Estimate(len(tokens), kept, sum(tokens), cost, limit)


def count_tokens(text: str) -> int:
    """About how many tokens ``text`` has for a byte-pair vocabulary of 100,000: words in pieces of seven letters,
    numbers in pieces of three digits, every other mark its own. An estimate, made without the vocabulary."""
    words = sum(math.ceil(len(word) / 7) for word in re.findall(r"[^\W\d_]+", text))
    numbers = sum(math.ceil(len(number) / 3) for number in re.findall(r"\d+", text))
    return words + numbers + len(re.findall(r"[^\w\s]|_|\n", text))
