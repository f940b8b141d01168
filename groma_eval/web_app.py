"""The browser's chat, in Gradio: components around the functions of :mod:`groma_eval.web`.

It is served to this machine alone, without analytics and without a public link.
"""

# No postponed annotations here: Gradio reads those of the event handlers when it is handed them.

import os
from collections.abc import Sequence
from typing import Any

from PIL import Image

from groma_eval import web
from groma_eval.core import HarnessError

HOST = "127.0.0.1"
EXAMPLES = 4
#: Conversations kept in memory, each with its perceived picture; an hour after its upload a picture is deleted.
_SESSIONS = 50
_CLEANING = (600, 3600)
_UPLOAD = "30mb"
#: What groma-tiny knows to answer about the shapes world.
QUESTIONS = ("describe the image.", "how many yellow objects are there?", "what is this <box>?", "what pattern is it?")
_HELP = (
    "Choose a picture and ask about it. To ask about a place, click two opposite corners of a box on the picture, then "
    "ask; `<box>` in a question stands for a box. `[grounding]` before a question asks for phrases with their boxes."
)


def require_gradio() -> Any:
    """The module gradio. Raises HarnessError where it is not installed."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise HarnessError(f"--web needs gradio ({error}); install it with: pip install 'groma-eval[web]'") from None
    return gradio


def example_pictures(count: int = EXAMPLES) -> list[Image.Image]:
    """Test scenes of the shapes world, made on the spot."""
    from groma_eval.benchmarks.shapes.draw import draw
    from groma_eval.benchmarks.shapes.world import make_scene

    return [Image.fromarray(draw(make_scene(0, "test", index))) for index in range(count)]


def build(
    groma: Any, max_new_tokens: int, first: Image.Image | None = None, examples: Sequence[Image.Image] | None = None
) -> Any:
    """The app as ``gradio.Blocks``; ``first`` is the picture it opens with, ``examples`` are those to choose from."""
    gr = require_gradio()
    examples = example_pictures() if examples is None else list(examples)
    opening = web.start(groma, first)

    def shown(session: web.Session) -> tuple[Any, ...]:
        return (
            session,
            web.picture(session),
            web.message_html(session),
            web.conversation_html(session),
            web.answer_picture(session),
        )

    def choose(image: Image.Image | None):
        return shown(web.start(groma, image))

    def choose_example(event: gr.SelectData):
        return choose(examples[event.index])

    def click(session: web.Session, event: gr.SelectData):
        return shown(web.click(session, *event.index))

    def add_box(session: web.Session, text: str):
        return (*shown(web.add_box(session, text)), "")

    def ask(session: web.Session, question: str):
        after = web.ask(session, question, max_new_tokens)
        return (*shown(after), question if after.message else "")

    with gr.Blocks(title="Groma", analytics_enabled=False, delete_cache=_CLEANING) as app:
        state = gr.State(opening)
        gr.Markdown(f"# Groma\n{_HELP}")
        with gr.Row():
            with gr.Column():
                picture = gr.Image(
                    web.picture(opening), type="pil", sources=["upload", "clipboard"], label="Picture", height=480,
                    format="png", interactive=True, buttons=["fullscreen"],
                )  # fmt: skip
                message = gr.HTML(web.message_html(opening))
                with gr.Row():
                    typed = gr.Textbox(label="Or type a box", placeholder="x1,y1,x2,y2 in pixels, then Enter", scale=2)
                    clear = gr.Button("Clear boxes", scale=1)
                gallery = gr.Gallery(
                    examples, label="Examples", columns=EXAMPLES, height=180, allow_preview=False,
                    format="png", interactive=False, buttons=[],
                )  # fmt: skip
            with gr.Column():
                conversation = gr.HTML(web.conversation_html(opening))
                question = gr.Textbox(label="Question", placeholder=QUESTIONS[0], lines=1)
                gr.Examples([[text] for text in QUESTIONS], question, label="Questions about the examples")
                with gr.Row():
                    send = gr.Button("Ask", variant="primary")
                    anew = gr.Button("New conversation")
                drawn = gr.Image(
                    None,
                    type="pil",
                    label="Last answer",
                    interactive=False,
                    format="png",
                    buttons=["download", "fullscreen"],
                )
        view = [state, picture, message, conversation, drawn]
        # The model answers one at a time, whoever asks.
        model = {"concurrency_id": "model", "concurrency_limit": 1}
        picture.upload(choose, picture, view, api_name="choose", **model)
        picture.clear(lambda: shown(web.Session()), None, view, api_name="clear")
        picture.select(click, state, view, show_progress="hidden", api_name="click")
        gallery.select(choose_example, None, view, api_name="example", **model)
        typed.submit(add_box, [state, typed], [*view, typed], api_name="box")
        clear.click(lambda session: shown(web.clear_boxes(session)), state, view, api_name="clear_boxes")
        anew.click(lambda session: shown(web.restart(session)), state, view, api_name="restart")
        for event, name in ((send.click, "ask"), (question.submit, "submit")):
            event(ask, [state, question], [*view, question], api_name=name, **model)
    return app


def serve(app: Any, port: int | None = None) -> None:
    """Serve ``app`` on this machine until it is interrupted. Raises HarnessError where the port is taken."""
    try:
        _, url, _ = app.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=_UPLOAD,
            state_session_capacity=_SESSIONS,
            ssr_mode=False,
            footer_links=[],
        )
    except OSError as error:
        raise HarnessError(f"--port {port or '(any)'}: cannot be served ({' '.join(str(error).split())})") from None
    print(f"Groma answers at {url} (end with Ctrl-C)", flush=True)
    app.block_thread()
