"""The pictures of ``groma-train make-instruct``: what is asked about each, at what cost, and what comes of it."""

from __future__ import annotations

import hashlib
import io
import math
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groma_eval.core import HarnessError
from groma_eval.judge.settings import PRICES, JudgeSettings, count_tokens

if TYPE_CHECKING:
    from groma_eval.judge.client import Client
    from groma_eval.judge.journal import Calls, Journal
    from groma_model.instruct.parse import GroundedTurn
    from groma_model.instruct.sources import SourceImage

WHO = "the vision-language model"
_GIVE_UP = 5  # pictures in a row whose requests failed for good: the endpoint is down
_USUAL_REPLY = 350  # tokens, for the estimate: three to four questions with their answers
_TILES = {"gpt-4o-mini": (2833, 5667)}  # tokens of a picture: once, and for each tile of 512 pixels
_USUAL_TILES = (85, 170)


@dataclass
class Item:
    """A picture to ask about. ``content`` is the hash of all that is sent; ``outcome`` the conversation, or why there
    is none: a reason's name and a line. ``rejected``: reasons of the replies so far."""

    image: SourceImage
    content: str = ""
    outcome: tuple[GroundedTurn, ...] | tuple[str, str] | None = None
    rejected: list[str] = field(default_factory=list)
    reply: str | None = None

    @property
    def turns(self) -> tuple[GroundedTurn, ...] | None:
        return None if self.outcome is None or isinstance(self.outcome[0], str) else self.outcome  # type: ignore


def prepare(images: Sequence[SourceImage], folder: Path, progress: bool) -> list[Item]:
    """An item for each picture, with the hash of what is sent; a picture that cannot be used has its outcome."""
    from PIL import Image
    from tqdm import tqdm

    from groma_eval.judge.prompts import content_hash
    from groma_model.instruct.markers import DRAWING
    from groma_model.instruct.prompt import text_messages

    items = []
    for image in tqdm(images, desc="pictures", unit="picture", file=sys.stderr, disable=None if progress else True):
        item = Item(image)
        try:
            content = (folder / image.file_name).read_bytes()
            with Image.open(io.BytesIO(content)) as picture:
                size = picture.size
        except OSError:
            item.outcome = ("unreadable_picture", image.file_name)
        else:
            if size != (image.width, image.height):
                wanted = f"{image.width} x {image.height}"
                item.outcome = ("other_size", f"{image.file_name} has {size[0]} x {size[1]} pixels, not {wanted}")
            # The file's bytes, not the drawn picture's: those may differ from one Pillow to the next.
            drawing = {"picture": hashlib.sha256(content).hexdigest(), "drawing": DRAWING, "image": image.id}
            boxes = [region.box for region in image.regions]
            item.content = content_hash([*text_messages(_context(image)), {**drawing, "boxes": boxes}])
        items.append(item)
    return items


def _context(image: SourceImage) -> str:
    from groma_model.instruct.prompt import context_of

    return context_of(image.regions, image.captions, image.questions)


def pending_of(items: Sequence[Item], calls: Calls, settings: JudgeSettings) -> list[Item]:
    return [item for item in items if _next_attempt(item, calls, settings) is not None]


def _key(item: Item, settings: JudgeSettings, attempt: int) -> str:
    from groma_eval.judge.prompts import call_key

    return call_key([{"content": item.content}], settings.model, settings.decoding, attempt)


def _next_attempt(item: Item, calls: Calls, settings: JudgeSettings) -> int | None:
    """The attempt (from 1) that is to be asked next, None where there is an outcome; sets the outcome."""
    from groma_model.instruct.parse import Rejected, parse_conversation

    if item.outcome is not None:
        return None
    rejected: list[str] = []
    for attempt in range(1, settings.asks + 1):
        call = calls.get(_key(item, settings, attempt))
        if call is None:
            item.rejected = rejected
            return attempt
        try:
            item.outcome = parse_conversation(call["content"], len(item.image.regions))
            break
        except Rejected as error:
            rejected.append(error.reason)
            last = (error.reason, str(error))
            item.reply = call["content"]
    else:
        item.outcome = last
    item.rejected = rejected
    return None


def estimate(pending: Sequence[Item], total: int, settings: JudgeSettings) -> str:
    """What asking would take, in tokens and dollars; an estimate, made without the model's vocabulary."""
    from groma_model.instruct.prompt import text_messages

    kept = f" ({total - len(pending)} more need no asking)" if total > len(pending) else ""
    if not pending:
        return f"nothing to ask: {total} pictures have their outcome"
    fixed = sum(count_tokens(message["content"]) + 4 for message in text_messages(""))
    prompt = sum(fixed + count_tokens(_context(i.image)) + _picture_tokens(i.image, settings.model) for i in pending)
    text = f"{len(pending)} pictures to ask about{kept}, about {prompt} prompt tokens; "
    price = settings.price or PRICES.get(settings.model)
    if price is None:
        return text + "the price is not known (give --price IN OUT)"
    usual, most = (
        (prompt * price[0] + len(pending) * tokens * price[1]) / 1e6
        for tokens in (min(_USUAL_REPLY, settings.max_tokens), settings.max_tokens)
    )
    return text + f"about ${usual:.2f}, at most ${most:.2f} if each is asked once"


def _picture_tokens(image: SourceImage, model: str) -> int:
    """By the rule of gpt-4o: the shorter side at most 768 pixels, then tiles of 512. Other vendors count otherwise."""
    from groma_model.instruct.markers import LONGEST_SIDE

    scale = min(1.0, LONGEST_SIDE / max(image.width, image.height))
    scale *= min(1.0, 768 / (scale * min(image.width, image.height)))
    tiles = math.ceil(image.width * scale / 512) * math.ceil(image.height * scale / 512)
    once, each = _TILES.get(model, _USUAL_TILES)
    return once + each * tiles


def ask_all(pending: Sequence[Item], folder: Path, settings: JudgeSettings, journal: Journal, progress: bool) -> None:
    from tqdm import tqdm

    from groma_eval.judge.client import Client
    from groma_eval.judge.judging import in_threads

    stop = threading.Event()
    client = Client(settings, stop, WHO)
    lost = 0
    with tqdm(
        total=len(pending), desc=settings.model, unit="picture", file=sys.stderr, disable=None if progress else True
    ) as bar:
        for item in in_threads(lambda i: _ask(i, folder, client, journal), pending, settings.concurrency, stop):
            bar.update(1)
            failed = item.outcome is not None and item.outcome[0] == "request_failed"
            lost = lost + 1 if failed else 0
            if lost == _GIVE_UP:
                assert item.outcome is not None
                raise HarnessError(f"{item.outcome[1]}; what was answered is kept, repeat to continue")


def _ask(item: Item, folder: Path, client: Client, journal: Journal) -> Item:
    """Ask until there is a usable reply, no attempt is left, or the request fails."""
    from PIL import Image

    from groma_eval.judge.client import CallFailed
    from groma_model.instruct.markers import data_url, draw_markers
    from groma_model.instruct.prompt import text_messages, with_picture

    image, settings, messages = item.image, client.settings, None
    while (attempt := _next_attempt(item, journal.calls, settings)) is not None:
        try:
            if messages is None:
                with Image.open(folder / image.file_name) as picture:
                    drawn, _ = draw_markers(picture, [region.box for region in image.regions])
                messages = with_picture(text_messages(_context(image)), data_url(drawn))
        except (OSError, SyntaxError):  # what Pillow raises for broken files
            item.outcome = ("unreadable_picture", image.file_name)
            break
        try:
            completion = client.complete(messages)
        except CallFailed as failure:
            item.outcome = ("request_failed", str(failure))
            break
        journal.add(
            {
                "key": _key(item, settings, attempt),
                "image_id": image.id,
                "attempt": attempt,
                "model": settings.model,
                "served": completion.served,
                "content": completion.content,
                "prompt_tokens": completion.prompt_tokens,
                "completion_tokens": completion.completion_tokens,
            }
        )
    return item


def used_calls(items: Sequence[Item], calls: Calls, settings: JudgeSettings) -> Iterator[dict[str, Any]]:
    for item in items:
        for attempt in range(1, settings.asks + 1):
            if (call := calls.get(_key(item, settings, attempt))) is not None:
                yield call
