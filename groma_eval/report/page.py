"""index.html: tables as HTML, and the frame that the scripts fill with plots and gallery."""

from __future__ import annotations

from collections.abc import Sequence

from groma_eval import __version__
from groma_eval.report.escape import Html, join, tag
from groma_eval.report.load import StoredRun
from groma_eval.report.summary import ALPHA, Benchmark, benchmark_section, headline_table, provenance_section

MARK = '<meta name="generator" content="groma-eval report'

#: Nothing but this folder's own files: no inline script or style, no frames, forms, plug-ins or connections. The
#: scheme is there because some browsers do not take a file for 'self'. Text can become a script's address only through
#: the policy of the loader, and markup by no way at all.
POLICY = (
    "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file:; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types groma-data"
)
SCRIPTS = ("core", "boxes", "plots", "list", "detail", "gallery", "app")


def render(title: str, runs: Sequence[StoredRun], benchmarks: Sequence[Benchmark]) -> str:
    """The whole page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=Html(POLICY)),
        tag("meta", name="generator", content=f"groma-eval report {__version__}"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="assets/icon.svg", type="image/svg+xml"),
        tag("link", rel="stylesheet", href="assets/style.css"),
        tag("script", src="assets/core.js", defer=True),
        tag("script", src="data/index.js", defer=True),
        *(tag("script", src=f"assets/{name}.js", defer=True) for name in SCRIPTS[1:]),
    )
    body = tag(
        "body",
        tag("a", "Skip to the content", href="#main", class_="skip"),
        _header(title),
        tag("main", _summary(runs, benchmarks), _empty("plots"), _empty("gallery"), id="main", tabindex="-1"),
        _help(),
        tag("div", id="said", class_="hidden", role="status", aria_live="polite"),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _header(title: str) -> Html:
    links = [
        tag("a", name.capitalize(), href=f"#view={name}", data_view=name) for name in ("summary", "plots", "gallery")
    ]
    return tag(
        "header",
        tag("h1", title),
        tag("nav", *links, aria_label="Views"),
        tag("div", tag("label", "Benchmark ", tag("select", id="bench")), class_="pick", id="pick-bench"),
        tag("div", _pick_run("a", "A"), _pick_run("b", "B"), class_="pick", id="pick-runs"),
        tag(
            "div",
            tag("button", "?", type="button", id="open-help", aria_label="Help and keys", title="Help and keys (?)"),
            tag("button", "◐", type="button", id="theme", aria_label="Light or dark", title="Light or dark"),
            class_="tools",
        ),
    )


def _pick_run(key: str, name: str) -> Html:
    swatch = tag("span", name, class_=f"letter {key}", aria_hidden="true")
    return tag("label", swatch, tag("span", f"Run {name}", class_="hidden"), tag("select", id=f"run-{key}"))


def _summary(runs: Sequence[StoredRun], benchmarks: Sequence[Benchmark]) -> Html:
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}, {len(benchmarks)} benchmark"
    count += "s" if len(benchmarks) > 1 else ""
    star = tag("p", _STAR, class_="quiet") if any(b.differences for b in benchmarks) else None
    return tag(
        "div",
        tag("section", tag("h2", "Summary"), tag("p", count, class_="quiet"), headline_table(runs, benchmarks), star),
        tag("noscript", tag("p", "Plots and gallery need JavaScript; the tables do not.", class_="note")),
        join(benchmark_section(runs, b) for b in benchmarks),
        tag("section", tag("h2", "Provenance"), *(provenance_section(n, run) for n, run in enumerate(runs))),
        id="summary",
        class_="view",
    )


_STAR = (
    f"Differences marked * have p < {ALPHA} by the paired test of whole images, each metric by itself: where many are "
    "compared, some are marked by chance. groma-eval compare corrects for their number."
)


def _empty(name: str) -> Html:
    return tag("div", id=name, class_="view", hidden=True)


_KEYS = (
    ("j or ↓", "next question"),
    ("k or ↑", "question before"),
    ("g g, G", "first, last question"),
    ("/", "search"),
    ("t, p", "show or hide truth, proposals"),
    ("w", "wrong only, or all"),
    ("1, 2, 3", "summary, plots, gallery"),
    ("c", "copy the link to this question"),
    ("?", "this help"),
    ("Esc", "leave the search or a choice, close the help"),
)


def _help() -> Html:
    rows = [tag("tr", tag("th", tag("kbd", keys), scope="row"), tag("td", what)) for keys, what in _KEYS]
    return tag(
        "dialog",
        tag("h2", "Keys", id="help-title"),
        tag("table", tag("tbody", *rows)),
        tag(
            "p",
            "The address always leads back to what is shown: share it with the folder. Boxes and phrases that belong "
            "together light up together, by pointer or focus.",
        ),
        tag("button", "Close", type="button", id="close-help"),
        id="help",
        aria_labelledby="help-title",
    )
