"""``groma-chat``: ask Groma about a picture, once, in a dialogue, or in a browser."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groma_eval.core import Box, HarnessError
from groma_eval.drawing import draw_grounded, printable

if TYPE_CHECKING:
    from PIL.Image import Image

    from groma_model.grounded_text import GroundedText

_HELP = "commands: /box x1,y1,x2,y2 (pixels; for the next question; several with ; between), /save FILE, /quit"
#: Markup that stands for a user's box; only the model's own rendering may write it.
_REFERRAL = ("<refer_box>", "<refer_feat>")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise HarnessError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns 0, or 2 after one line about a bad call or unreadable input."""
    try:
        return _run(_parser().parse_args(arguments))
    except HarnessError as error:
        print(f"groma-chat: {printable(str(error))}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="groma-chat",
        description="Ask Groma about a picture. Phrases of the answer are followed by their boxes in pixels.",
    )
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="needed but with --web")
    parser.add_argument("question", nargs="?", help="one question; without it, a dialogue")
    parser.add_argument(
        "--box", action="append", default=[], metavar="x1,y1,x2,y2",
        help="a box the question is about, in pixels of the image; may be repeated. The question names each <box>, or "
        "they stand at its end",
    )  # fmt: skip
    parser.add_argument("--model", default="groma-tiny", help="groma-tiny, a folder or a hub id (default: groma-tiny)")
    parser.add_argument("--save", metavar="FILE", help="draw the last answer's boxes on the picture")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: the model's choice)")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="length of an answer")
    parser.add_argument("--web", action="store_true", help="in a browser, on this machine; needs the extra 'web'")
    parser.add_argument("--port", type=int, metavar="N", help="of --web (default: the first free one from 7860)")
    return parser


def _run(options: argparse.Namespace) -> int:
    from groma_eval.models.groma import open_image

    # Whatever can be refused cheaply is refused before the model is loaded.
    if options.max_new_tokens < 1:
        raise HarnessError(f"--max-new-tokens {options.max_new_tokens}: must be at least 1")
    if options.web:
        return _serve(options)
    if options.port is not None:
        raise HarnessError("--port goes with --web")
    if options.image is None:
        raise HarnessError("name a picture, or use --web; see: groma-chat --help")
    image = open_image(Path(options.image))
    boxes = [parse_box(box, image.size) for box in options.box]
    if options.save is not None:
        check_savable(options.save)
    if options.question is not None and not options.question.strip():
        raise HarnessError("the question is empty; leave it out for a dialogue")
    dialogue = Dialogue(load_groma(options.model, options.device), image, options.max_new_tokens, boxes)
    if options.question is None:
        return converse(dialogue, options.save)
    print(shown(dialogue.ask(options.question), image.size))
    if options.save is not None:
        dialogue.save(options.save)
    return 0


def _serve(options: argparse.Namespace) -> int:
    from groma_eval.models.groma import open_image
    from groma_eval.web_app import build, require_gradio, serve

    for name, value in (("a question", options.question), ("--box", options.box), ("--save", options.save)):
        if value:
            raise HarnessError(f"{name} does not go with --web; give it in the browser")
    if options.port is not None and not 0 < options.port < 65536:
        raise HarnessError(f"--port {options.port}: must be from 1 to 65535")
    require_gradio()
    first = open_image(Path(options.image)) if options.image is not None else None
    serve(build(load_groma(options.model, options.device), options.max_new_tokens, first), options.port)
    return 0


def load_groma(name: str, device: str | None = None) -> Any:
    """The :class:`groma_model.Groma` behind a model name of the registry.

    Raises:
        HarnessError: unknown name, a checkpoint of another kind, or a model that is no Groma.
    """
    from groma_eval.models import load
    from groma_eval.models.groma import GromaAdapter

    model = load(name, device=device)
    if not isinstance(model, GromaAdapter) or "converse" not in model.info.capabilities:
        raise HarnessError(f"--model {name!r} is no Groma that answers; use groma-tiny, a folder or a hub id")
    return model.groma


class Dialogue:
    """A picture, what was said about it, and the boxes for the next question."""

    def __init__(self, groma: Any, image: Image, max_new_tokens: int, boxes: Sequence[Box] = ()):
        self.image = image
        self.scene = groma.perceive(image)
        self.max_new_tokens = max_new_tokens
        self.boxes: list[Box] = list(boxes)
        self._last: tuple[GroundedText, list[Box]] | None = None

    def ask(self, question: str) -> GroundedText:
        """Put a question (with the pending boxes) and continue the history by it.

        Raises:
            HarnessError: the question cannot be put, say because it is too long.
        """
        check_question(question, self.boxes, "give one with --box or /box")
        boxes, self.boxes = self.boxes, []
        try:
            answer = self.scene.chat(question, boxes=tuple(boxes), max_new_tokens=self.max_new_tokens)
        except ValueError as error:
            raise HarnessError(" ".join(str(error).split())) from error
        grounded = getattr(answer, "grounded", answer)
        self._last = (grounded, boxes)
        return grounded

    def save(self, path: str) -> None:
        """Draw the last answer.

        Raises:
            HarnessError: nothing was answered yet, or the file cannot be written.
        """
        if self._last is None:
            raise HarnessError("there is no answer to save yet; ask something first")
        check_savable(path)
        try:
            draw_grounded(self.image, *self._last).save(path)
        except (OSError, ValueError) as error:
            raise HarnessError(f"{path}: cannot be written ({error})") from error


def check_question(question: str, boxes: Sequence[Box], how: str) -> None:
    """Raise HarnessError for a question that cannot be put with these boxes; ``how`` tells how to give one."""
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise HarnessError("the question is no text in the terminal's encoding")
    reserved = [token for token in _REFERRAL if token in question]
    if reserved:
        raise HarnessError(f"{reserved[0]} is reserved; write <box> for your box")
    if "<box>" in question and not boxes:
        raise HarnessError(f"the question names <box> but no box was given; {how}")


def converse(dialogue: Dialogue, save: str | None = None) -> int:
    """The prompt loop; ends with ``/quit``, end of input or an interrupt. Mistakes are told and forgiven."""
    if sys.stdin.isatty():
        print(_HELP)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            if sys.stdin.isatty():
                print()
            return 0
        except UnicodeDecodeError:
            print("that was no text in the terminal's encoding", file=sys.stderr)
            continue
        try:
            if not _turn(dialogue, line, save):
                return 0
        except HarnessError as error:
            print(printable(str(error)), file=sys.stderr)


def _turn(dialogue: Dialogue, line: str, save: str | None) -> bool:
    command, _, rest = line.partition(" ")
    if command == "/quit":
        return False
    if command == "/box":
        dialogue.boxes = [parse_box(part, dialogue.image.size) for part in rest.split(";")]
    elif command == "/save":
        if not rest.strip():
            raise HarnessError("/save needs a file name, say /save out.png")
        dialogue.save(rest.strip())
    elif command.startswith("/"):
        raise HarnessError(f"unknown command {command}; {_HELP}")
    elif line:
        print(shown(dialogue.ask(line), dialogue.image.size), flush=True)
        if save is not None:
            dialogue.save(save)
    return True


def parse_box(text: str, size: tuple[int, int]) -> Box:
    """``x1,y1,x2,y2`` in pixels of an image of ``size`` (width, height) to a normalised box, clipped to the image.

    Raises:
        HarnessError: not four finite numbers, empty, or wholly outside the image.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 4 or not all(math.isfinite(value) for value in values):
        raise HarnessError(f"box {text.strip()!r}: must be four numbers x1,y1,x2,y2 in pixels")
    x1, y1, x2, y2 = values
    if x2 <= x1 or y2 <= y1:
        raise HarnessError(f"box {text.strip()!r} is empty; x2 must be above x1 and y2 above y1")
    width, height = size
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        raise HarnessError(f"box {text.strip()!r} lies outside the image of {width}x{height} pixels")
    return (max(x1, 0) / width, max(y1, 0) / height, min(x2, width) / width, min(y2, height) / height)


def check_savable(path: str) -> None:
    """Raise HarnessError unless ``path`` has an image suffix that PIL writes and stands in an existing folder."""
    from PIL import Image

    kinds = Image.registered_extensions()
    suffix = Path(path).suffix.lower()
    if kinds.get(suffix) not in Image.SAVE:
        raise HarnessError(f"{path}: {suffix or 'no suffix'!r} is no image format to write; use .png or .jpg")
    if not Path(path).absolute().parent.is_dir():
        raise HarnessError(f"{path}: there is no such folder to save in")


def shown(grounded: GroundedText, size: tuple[int, int]) -> str:
    """The answer for a terminal: text with ``[x1,y1,x2,y2]`` in pixels after each phrase, no control characters.

    Boxes that stand in no span come at the end; an answer of neither text nor boxes is ``(no answer)``.
    """
    pieces: list[str] = []
    position = 0
    in_spans = set()
    for span in sorted(grounded.spans, key=lambda span: (span.end, span.start)):
        in_spans |= {tuple(box) for box in span.boxes}
        pieces.append(printable(grounded.text[position : max(span.end, position)]))
        pieces.append("".join(f" {_pixels(box, size)}" for box in span.boxes))
        position = max(span.end, position)
    pieces.append(printable(grounded.text[position:]))
    loose = [box for box in dict.fromkeys(tuple(box) for box in grounded.boxes) if box not in in_spans]
    pieces += [f" {_pixels(box, size)}" for box in loose]
    return "".join(pieces).strip() or "(no answer)"


def _pixels(box: Sequence[float], size: tuple[int, int]) -> str:
    corners = (value * side for value, side in zip(box, (*size, *size)))
    return f"[{','.join(str(round(value)) for value in corners)}]"


if __name__ == "__main__":
    sys.exit(main())
