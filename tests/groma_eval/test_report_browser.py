"""The report in a browser, from the file system: filters, keys, two runs, links, and planted code that stays text."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from report_runs import HEIGHT, WIDTH, picture, rec_run, write_run

from groma_eval.core import ImageAnswer, Prediction, Question, Sample
from groma_eval.report import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: the report is not opened")

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with its driver here: the report is not opened"
)

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--window-size=1280,900",
)  # fmt: skip
PLANTED = (
    "<script>window.pwned=1</script>",
    '<img src=x onerror="window.pwned=1">',
    "javascript:window.pwned=1",
    "'\"--></title></style></textarea></script><svg onload=window.pwned=1>",
    "\u202egnp.exe <b>bold</b> {{7*7}} ${window.pwned=1} \u2028 &lt;i&gt;",
)


class Page:
    """A browser with the few moves the tests need; every wait is for something to become so."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def open(self, index: Path, fragment: str = "") -> None:
        self.driver.get("about:blank")  # a change of the fragment alone would not load the page again
        self.driver.get(index.as_uri() + (f"#{fragment}" if fragment else ""))
        self.until("return document.readyState === 'complete' && Boolean(Groma.state)")

    def js(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str, *arguments):
        """Wait till ``script`` returns something true, and return it."""
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, 20, poll_frequency=0.02).until(
            lambda d: d.execute_script(script, *arguments), script
        )

    def all(self, selector: str) -> list[str]:
        return self.js("return [...document.querySelectorAll(arguments[0])].map((n) => n.textContent)", selector)

    def one(self, selector: str) -> str:
        return self.until("const n = document.querySelector(arguments[0]); return n && n.textContent", selector)

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def choose(self, selector: str, value: str) -> None:
        from selenium.webdriver.support.select import Select

        Select(self.driver.find_element("css selector", selector)).select_by_value(value)

    def question(self, key: str) -> None:
        """Wait till this question is shown."""
        self.until(
            "const q = document.getElementById('question'); return q && q.dataset.question === arguments[0]", key
        )

    def count(self, text: str) -> None:
        """Wait till the count says this."""
        self.until("const n = document.getElementById('count'); return n && n.textContent === arguments[0]", text)

    def errors(self) -> list[str]:
        return [
            f"{e['level']} {e['message']}"
            for e in self.driver.get_log("browser")
            if e["level"] in ("SEVERE", "WARNING")
        ]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.driver.quit()


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    runs = [
        rec_run(folder / name, folder / "pictures", images=12, seed=seed, shift=shift)
        for name, seed, shift in (("alpha", 0, 0.09), ("beta", 1, 0.05))
    ]
    return write_report(runs, folder / "out", progress=False).index


@pytest.fixture
def clean(page):
    """The page, with nothing on its console at the end."""
    page.errors()
    yield page
    assert page.errors() == []


def expected(index, test):
    """Ids of the listed questions for which ``test(listing, i)`` holds, from the data file."""
    import json
    import re

    text = (index.parent / "data/b0-list.js").read_text()
    body = re.fullmatch(r"Groma\.put\('b0-list','(.*)'\);\n", text).group(1)
    listing = json.loads(re.sub(r"\\x([0-9a-f]{2})", lambda m: chr(int(m[1], 16)), body).replace("\\\\", "\\"))
    return [key for i, key in enumerate(listing["ids"]) if test(listing, i)]


def shown(page):
    """Ids of the questions in the list, walked through with the keys."""
    from selenium.webdriver.common.keys import Keys

    page.press(Keys.ESCAPE)  # out of the filter that was chosen
    page.press("g", "g")
    total = page.js("return Number(document.getElementById('count').textContent.split(' ')[0])")
    found = []
    for number in range(total):
        where = f"{number + 1} of {total}"
        page.until(
            "const p = document.querySelector('.asked-for p'); return p && p.textContent.includes(arguments[0])", where
        )
        found.append(page.js("return document.getElementById('question').dataset.question"))
        page.press("j")
    return found


def test_summary_needs_no_choice_and_links_to_its_benchmarks(clean, index):
    clean.open(index)
    assert clean.driver.title == "Evaluation report"
    assert clean.all("#summary table caption")[0].startswith("Headline figures")
    assert {"alpha", "beta"} <= {text.removesuffix("toy") for text in clean.all("#summary thead th")}
    clean.click("nav a[data-view=plots]")
    clean.until("return document.querySelectorAll('#plots svg.chart').length === 5")
    titles = ["Over the IoU threshold", "By the true box's area", "Proposal recall", "Calibration", "By group"]
    assert clean.all("#plots h3") == titles
    assert clean.js("return document.querySelectorAll('#plots path.line.a').length") >= 4
    assert clean.js("return document.querySelectorAll('#plots path.line.b').length") >= 4
    assert any("ECE" in text for text in clean.all("#plots .legend li"))
    clean.choose("#run-b", "none")
    clean.until("return document.querySelectorAll('#plots .line.b').length === 0")
    clean.driver.back()
    clean.until("return !document.getElementById('summary').hidden")


def test_filters_show_what_the_data_says(clean, index):
    clean.open(index, "view=gallery")
    clean.count("36 questions")
    a, b = "0", "1"
    cases = {
        "a-wrong": lambda d, i: d["runs"][a]["right"][i] == 0,
        "b-wrong": lambda d, i: d["runs"][b]["right"][i] == 0,
        "a-unproposed": lambda d, i: d["runs"][a]["miss"][i] & 1,
        "a-unselected": lambda d, i: d["runs"][a]["miss"][i] & 2,
        "a-unanswered": lambda d, i: d["runs"][a]["status"][i] > 0,
        "a-over-b": lambda d, i: d["runs"][a]["right"][i] > d["runs"][b]["right"][i],
        "b-over-a": lambda d, i: d["runs"][a]["right"][i] < d["runs"][b]["right"][i],
        "both-wrong": lambda d, i: d["runs"][a]["right"][i] == 0 == d["runs"][b]["right"][i],
    }
    for value, test in cases.items():
        wanted = expected(index, test)
        assert wanted or value == "a-unselected", value
        if not wanted:
            continue
        clean.choose("#only", value)
        clean.count(f"{len(wanted)} of 36")
        assert shown(clean) == wanted, value
    clean.choose("#only", "all")
    clean.choose("#tag", "group:location")
    wanted = expected(index, lambda d, i: d["tagNames"].index(["group", "location"]) in d["tags"][i])
    clean.count(f"{len(wanted)} of 36")
    clean.choose("#area", "medium")
    both = expected(index, lambda d, i: d["tagNames"].index(["group", "location"]) in d["tags"][i] and d["area"][i] & 2)
    clean.count(f"{len(both)} of 36")
    assert 0 < len(both) < len(wanted)


def test_keys(clean, index):
    from selenium.webdriver.common.keys import Keys

    clean.open(index, "view=gallery")
    clean.question("0-0")
    clean.press("j")
    clean.question("0-1")
    clean.press(Keys.ARROW_DOWN)
    clean.question("0-2")
    clean.press("k")
    clean.question("0-1")
    clean.press("G")
    clean.question("11-2")
    clean.press("j")  # the end stays the end
    clean.press("g", "g")
    clean.question("0-0")
    clean.press("/")
    assert clean.js("return document.activeElement.id") == "search"
    clean.press("blue thing 7")
    clean.count("1 of 36")
    clean.question("7-1")
    clean.press(Keys.ESCAPE)
    clean.press("j")
    assert clean.js("return document.getElementById('search').value") == "blue thing 7"
    clean.press("?")
    clean.until("return document.getElementById('help').open")
    clean.press("j", Keys.ESCAPE)
    clean.until("return !document.getElementById('help').open")
    clean.press("w")
    clean.until("return Groma.state.only === 'a-wrong'")
    clean.press("w", "p")
    clean.until("return document.querySelectorAll('#question .box.proposal').length > 0")
    clean.press("t")
    clean.until("return document.querySelectorAll('#question .box.truth').length === 0")
    clean.press("2")
    clean.until("return !document.getElementById('plots').hidden")


def test_two_runs_stand_side_by_side_and_a_link_leads_back(clean, index):
    clean.open(index, "view=gallery&id=3-1")
    clean.question("3-1")
    assert [text.split("✓")[0].split("✗")[0] for text in clean.all("#question .panel h3")] == ["Aalpha", "Bbeta"]
    assert clean.js("return document.querySelectorAll('#question .panel.a .box.a').length") == 1
    assert clean.js("return document.querySelectorAll('#question .panel.b .box.b').length") == 1
    assert clean.js("return document.querySelectorAll('#question .box.truth').length") == 2
    clean.until("return [...document.querySelectorAll('#question img')].every((i) => i.complete && i.naturalWidth > 0)")
    clean.press("j", "p")
    clean.question("3-2")
    clean.choose("#run-b", "none")
    clean.until("return document.querySelectorAll('#question .panel').length === 1")
    fragment = clean.js("return location.hash.slice(1)")
    clean.open(index, fragment)
    clean.question("3-2")
    assert clean.js("return [Groma.state.b, Groma.state.props]") == ["none", "1"]
    assert len(clean.all("#question .panel")) == 1
    # A link to what is not there opens the page all the same.
    clean.open(index, "view=nowhere&bench=none&a=9&b=x&tag=zzz&id=q")
    assert clean.js("return [Groma.state.view, Groma.state.bench, Groma.state.a, Groma.state.b]") == [
        "summary",
        "toy-rec",
        "0",
        "none",
    ]


def test_light_and_dark(clean, index):
    paper = "return getComputedStyle(document.body).backgroundColor"
    found = {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        clean.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        clean.open(index)
        found[scheme] = clean.js(paper)
    assert found["light"] != found["dark"]
    clean.click("#theme")
    clean.until("return getComputedStyle(document.body).backgroundColor === arguments[0]", found["light"])
    clean.open(index)  # remembered
    assert clean.js(paper) == found["light"]
    clean.js("localStorage.clear()")


def contrast(a, b):
    def luminance(colour):
        linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_and_controls_have_names(clean, index):
    measure = """
      const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
      const behind = (node) => {
        for (let n = node; n; n = n.parentElement) {
          const colour = parse(getComputedStyle(n).backgroundColor);
          if (colour.length === 3 || colour[3] > 0.99) return colour;
        }
        return [255, 255, 255];
      };
      return [...document.querySelectorAll('body *')]
        .filter((n) => n.checkVisibility() && !n.closest('.overlay, .hidden, .skip, svg'))
        .filter((n) => [...n.childNodes].some((c) => c.nodeType === 3 && c.data.trim()))
        .map((n) => [n.className || n.tagName, parse(getComputedStyle(n).color).slice(0, 3), behind(n).slice(0, 3)]);
      """
    nameless = """
      return [...document.querySelectorAll('button, select, input, a, [role=listbox], [role=region], [role=img], img')]
        .filter((n) => n.checkVisibility())
        .filter((n) => !(n.ariaLabel || n.alt || (n.labels && n.labels.length)))
        .filter((n) => n.tagName === 'SELECT' || !n.textContent.trim())
        .map((n) => n.outerHTML)"""
    for theme in ("light", "dark"):
        for view in ("summary", "plots", "gallery"):
            clean.open(index, f"view={view}")
            clean.js("document.documentElement.setAttribute('data-theme', arguments[0])", theme)
            if view == "gallery":
                clean.question("0-0")
            poor = [(name, round(contrast(a, b), 2)) for name, a, b in clean.js(measure) if contrast(a, b) < 4.5]
            assert poor == [], (theme, view)
            assert clean.js(nameless) == []


def test_planted_code_stays_text(page, tmp_path):
    samples, answers = [], []
    for number, text in enumerate(PLANTED):
        path = picture(tmp_path / "pictures" / f"{text.replace('/', '_')[:80]}.png", number)
        boxes = [(0.1, 0.1, 0.5, 0.5)]
        target = {"references": [text], "phrases": [{"phrase": text, "boxes": boxes}]}
        question = Question(f"{text}{number}", "describe_scene", text=text, target=target, group=text.replace("/", "_"))
        samples.append(Sample(f"{text}{number}", path, WIDTH, HEIGHT, (question,)))
        said = f"see {text} there"
        prediction = Prediction(
            question.id, raw=f"<p>{text}</p>", text=said, boxes=boxes, confidences=[0.5], prompt=text,
            phrases=[{"phrase": text, "boxes": boxes}],
        )  # fmt: skip
        if number == 1:
            prediction = Prediction(question.id, raw=text, status="failed", error=text)
        answers.append(ImageAnswer(samples[-1].image_id, [prediction]))
    run = write_run(
        tmp_path / PLANTED[1].replace("/", "_"), {"b": ("caption", samples, answers)}, name=PLANTED[0], title=PLANTED[0]
    )
    index = write_report([run], tmp_path / "out", title=PLANTED[3], progress=False).index
    page.errors()
    page.open(
        index, "view=plots&q=%3Cscript%3E&tag=%22%3E%3Cscript%3Ewindow.pwned=1%3C/script%3E&id=javascript:alert(1)"
    )
    for view in ("summary", "plots", "gallery"):
        page.open(index, f"view={view}")
    page.count("5 questions")
    for number, text in enumerate(PLANTED):
        page.question(f"{_visible(text)}{number}")
        assert _visible(text) in page.one("#question h2")
        if number != 1:
            page.until("return document.querySelectorAll('#question .panel .span').length === 1")
            assert page.all("#question .panel .span") == [_visible(text)]
        page.until(
            "return [...document.querySelectorAll('#question img')].every((i) => i.complete && i.naturalWidth > 0)"
        )
        page.js("document.querySelectorAll('#question details').forEach((d) => { d.open = true; })")
        page.press("j")
    assert page.js("return window.pwned") is None
    tags = page.js("return [...new Set([...document.body.querySelectorAll('*')].map((n) => n.tagName))]")
    assert not {"SCRIPT", "IFRAME", "STYLE", "OBJECT", "B", "I"} & set(tags)
    attributes = (
        "return [...document.querySelectorAll('*')].flatMap((n) => [...n.attributes].map((a) => [a.name, a.value]))"
    )
    found = page.js(attributes)
    assert not [name for name, _ in found if name.startswith("on")]
    links = [value for name, value in found if name in ("href", "src")]
    assert all(link.startswith(("#", "assets/", "data/", "pictures/")) for link in links)
    assert page.errors() == []
    # The browser itself refuses what our code never does.
    for attempt in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.body.setAttribute('onclick', 'window.pwned = 1')",
    ):
        assert page.js(f"try {{ {attempt}; return 'taken'; }} catch (error) {{ return error.name; }}") == "TypeError"
    page.errors()


def _visible(text: str) -> str:
    from groma_eval.report.escape import visible

    return visible(text)


def test_spans_and_boxes_light_up_together(clean, tmp_path):
    boxes = [(0.1, 0.1, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9)]
    phrases = [{"phrase": "a cup", "boxes": [boxes[0]]}, {"phrase": "two dogs", "boxes": boxes}]
    target = {"references": ["a cup and two dogs"], "phrases": phrases}
    sample = Sample(
        "i", picture(tmp_path / "i.png", 3), WIDTH, HEIGHT, (Question("q", "describe_scene", target=target),)
    )
    text = "a cup by two dogs"
    answer = ImageAnswer(
        "i", [Prediction("q", raw=text, text=text, boxes=boxes, confidences=[0.9, 0.8], phrases=phrases)]
    )
    run = write_run(tmp_path / "run", {"b": ("caption", [sample], [answer])})
    clean.open(write_report([run], tmp_path / "out", progress=False).index, "view=gallery")
    clean.question("q")
    assert clean.all("#question .panel .span") == ["a cup", "two dogs"]
    assert clean.all("#question .expected .span") == ["a cup", "two dogs"]
    on = "return [...document.querySelectorAll('#question .box.on')].map((n) => n.dataset.key)"
    clean.js("document.querySelectorAll('#question .panel .span')[0].focus()")
    assert clean.js(on) == ["a0"]
    clean.js("document.querySelectorAll('#question .panel .span')[1].focus()")
    assert clean.js(on) == ["a0", "a1"]
    clean.js("document.activeElement.blur()")
    assert clean.js(on) == []
    # By pointer, from the box to the phrase.
    from selenium.webdriver import ActionChains

    ActionChains(clean.driver).move_to_element(
        clean.driver.find_element("css selector", "#question tr[data-key=a1]")
    ).perform()
    clean.until("return document.querySelector('#question .question.lit, #question .lit') !== null")
    lit = "return [...document.querySelectorAll('#question .panel .span.on')].map((n) => n.textContent)"
    assert clean.js(lit) == ["two dogs"]


def test_a_picture_that_is_gone_leaves_a_blank(clean, tmp_path):
    run = rec_run(tmp_path / "run", tmp_path / "pictures", images=2)
    (tmp_path / "pictures/pic_0000.png").unlink()
    clean.open(write_report([run], tmp_path / "out", progress=False).index, "view=gallery")
    clean.question("0-0")
    assert clean.all("#question .blank") == ["no picture"]
    assert clean.js("return document.querySelectorAll('#question .box').length") == 2


@pytest.mark.slow
def test_ten_thousand_questions(clean, tmp_path):
    runs = [
        rec_run(tmp_path / name, tmp_path / "pictures", images=2000, each=5, seed=seed)
        for seed, name in enumerate("ab")
    ]
    written = write_report(runs, tmp_path / "out", progress=False)
    assert written.questions == 10_000
    assert written.size < 200e6
    clean.open(written.index, "view=gallery")
    clean.count("10,000 questions")
    clean.press("G")
    clean.question("1999-4")
    assert clean.js("return document.querySelectorAll('.list .row').length") < 60
    clean.press("/")
    clean.press("red thing 1234")
    clean.count("3 of 10,000")
