"""How commands that ask a model over an OpenAI-compatible endpoint take its address, its limits and consent."""

from __future__ import annotations

import argparse

from groma_eval.judge.settings import JudgeSettings


def add_endpoint_arguments(
    parser: argparse.ArgumentParser, defaults: JudgeSettings, who: str, reply: str, asks: str, yes: str
) -> None:
    """Declare what :func:`endpoint_settings` reads, and ``--yes``, in a group called ``who``.

    ``reply`` is what the model gives; ``asks`` and ``yes`` say what those two options mean.
    """
    add = parser.add_argument_group(who).add_argument
    add("--base-url", default=defaults.base_url, metavar="URL", help="OpenAI-compatible endpoint (%(default)s)")
    add(
        "--api-key-env",
        default=defaults.api_key_env,
        metavar="NAME",
        help="environment variable with the key (%(default)s); it is stored and shown nowhere",
    )
    add("--temperature", type=float, default=defaults.temperature, help=f"of the {who} (%(default)s)")
    add("--max-tokens", type=int, default=defaults.max_tokens, metavar="N", help=f"of a {reply} (%(default)s)")
    add("--concurrency", type=int, default=defaults.concurrency, metavar="N", help="requests at a time (%(default)s)")
    add("--timeout", type=float, default=defaults.timeout_s, metavar="S", help="seconds of silence (%(default)s)")
    add(
        "--retries",
        type=int,
        default=defaults.retries,
        metavar="N",
        help="repeats of a request that failed: 429, 5xx, timeout, connection (%(default)s)",
    )
    add("--asks", type=int, default=defaults.asks, metavar="N", help=f"{asks} (%(default)s)")
    add(
        "--price",
        type=float,
        nargs=2,
        metavar=("IN", "OUT"),
        help="US dollars a million prompt and completion tokens, for the estimate (default: known for some models)",
    )
    add("--yes", action="store_true", help=yes)


def endpoint_settings(args: argparse.Namespace, model: str) -> JudgeSettings:
    """The settings that the arguments give; HarnessError names a bad one."""
    return JudgeSettings(
        model=model,
        base_url=args.base_url,
        api_key_env=args.api_key_env,
        temperature=args.temperature,
        max_tokens=args.max_tokens,
        concurrency=args.concurrency,
        timeout_s=args.timeout,
        retries=args.retries,
        asks=args.asks,
        price=tuple(args.price) if args.price else None,
    )


def consents(question: str) -> bool:
    """Whether the one at the terminal says yes; the end of the input is a no."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
