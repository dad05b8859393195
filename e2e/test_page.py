"""The web page in a real Chromium, headless.

    pip install selenium pytest; apt-get install chromium chromium-driver
    pytest e2e/test_page.py

Tests that need a certain answer talk to the mock of `mock.py`; the last ones talk to a real server.
HADAL_SCREENSHOTS=DIR keeps a picture of every view that is worth a look.
"""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from mock import CODE, HOSTILE, MARKDOWN, PAGE, REASONING, Mock

DESKTOP = (1280, 860)
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}


class Page:
    """The browser, seen as a person sees it."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, url, address=""):
        self.driver.get(url + "/" + address)
        self.until(lambda: self.js("return document.readyState") == "complete")

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def module(self, name, expression):
        """What `expression` is, with `m` as the page's module of this name."""
        script = f"const done = arguments[0]; import('/ui/{name}.js').then((m) => done({expression}), (e) => done(String(e)))"
        return self.driver.execute_async_script(script)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.one(selector).text

    def seen(self, selector):
        # In one step, because the page may replace elements between two.
        script = "return [...document.querySelectorAll(arguments[0])].some((e) => e.checkVisibility({ visibilityProperty: true }))"
        return self.js(script, selector)

    def until(self, holds, seconds=10):
        return WebDriverWait(self.driver, seconds, poll_frequency=0.05).until(lambda _: holds())

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def button(self, name, within="body"):
        """The visible button of this name."""
        named = [each for each in self.all(f"{within} button, {within} .button") if each.is_displayed()]
        return next(each for each in named if name in (each.text, each.get_attribute("aria-label")))

    def ask(self, text, wait=True):
        self.one("#prompt").send_keys(text, Keys.ENTER)
        self.until(lambda: self.one("#prompt").get_attribute("value") == "")
        if wait:
            self.idle()

    def idle(self):
        self.until(lambda: not self.seen("#stop"), 20)

    def answers(self):
        return [each.text for each in self.all(".answer > .prose")]

    def focused(self):
        return self.js("return document.activeElement.id")

    def problems(self):
        """What the browser complains about, but for refused requests, which it always notes."""
        told = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [each for each in told if "Failed to load resource" not in each]

    def picture(self, name):
        folder = os.environ.get("HADAL_SCREENSHOTS")
        if folder:
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))

    def emulate(self, **features):
        media = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})

    def phone(self):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        self.emulate(hover="none", pointer="coarse")

    def reset(self):
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        self.emulate()
        self.driver.get_log("browser")


@pytest.fixture(scope="module")
def driver():
    binary, service = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not service:
        pytest.fail("chromium and chromedriver are not on PATH; install the packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size={},{}".format(*DESKTOP)):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


@pytest.fixture
def page(driver):
    page = Page(driver)
    page.reset()
    yield page
    assert page.problems() == []


@pytest.fixture
def mock():
    # A port of its own is an origin of its own: every test begins with an empty storage.
    mock = Mock()
    yield mock
    mock.close()


# The parts that only compute.


def strip(value):
    """Without the source lines, which only say what has to be rendered again."""
    if isinstance(value, list):
        return [strip(each) for each in value]
    if isinstance(value, dict):
        return {key: strip(each) for key, each in value.items() if key != "source"}
    return value


def paragraph(text):
    return {"type": "paragraph", "text": text}


def items(*texts):
    return [{"checked": None, "blocks": [paragraph(text)]} for text in texts]


BLOCKS = {
    "": [],
    "a\n  b\n\nc": [paragraph("a\nb"), paragraph("c")],
    "## a b ##": [{"type": "heading", "level": 2, "text": "a b"}],
    "#a": [paragraph("#a")],
    "a\n---": [paragraph("a"), {"type": "rule"}],
    "```rust ignore\nlet x;\n\n  y\n```\nz": [
        {"type": "code", "language": "rust", "text": "let x;\n\n  y"},
        paragraph("z"),
    ],
    "~~~\n```\n~~~~": [{"type": "code", "language": "", "text": "```"}],
    "```\nnever closed\n# a": [{"type": "code", "language": "", "text": "never closed\n# a"}],
    "``` a ` b": [paragraph("``` a ` b")],
    "- a\n- b": [{"type": "list", "start": None, "loose": False, "items": items("a", "b")}],
    "3. a\n4. b": [{"type": "list", "start": 3, "loose": False, "items": items("a", "b")}],
    "- a\n\n- b": [{"type": "list", "start": None, "loose": True, "items": items("a", "b")}],
    "- a\n* b": [
        {"type": "list", "start": None, "loose": False, "items": items("a")},
        {"type": "list", "start": None, "loose": False, "items": items("b")},
    ],
    "1. a\n  - b": [
        {
            "type": "list",
            "start": 1,
            "loose": False,
            "items": [
                {
                    "checked": None,
                    "blocks": [
                        paragraph("a"),
                        {"type": "list", "start": None, "loose": False, "items": items("b")},
                    ],
                }
            ],
        }
    ],
    "- ```\n  x\n  ```": [
        {
            "type": "list",
            "start": None,
            "loose": False,
            "items": [{"checked": None, "blocks": [{"type": "code", "language": "", "text": "x"}]}],
        }
    ],
    "It was in\n1968. A year": [paragraph("It was in\n1968. A year")],
    "> a\n> > b\nc": [
        {"type": "quote", "blocks": [paragraph("a"), {"type": "quote", "blocks": [paragraph("b\nc")]}]},
    ],
    "|a|b|\n|:-|-:|\n|1 \\| 2|\nafter": [
        {"type": "table", "align": ["left", "right"], "head": ["a", "b"], "rows": [["1 | 2", ""]]},
        paragraph("after"),
    ],
    "a | b\n-|-": [{"type": "table", "align": [None, None], "head": ["a", "b"], "rows": []}],
    "a | b\n-|-|-": [paragraph("a | b\n-|-|-")],
    "\\[\nx_1 * y_1\n\\]": [{"type": "math", "text": "x_1 * y_1"}],
    "$$a\n\nb$$": [paragraph("$$a"), paragraph("b$$")],
    "<div>": [paragraph("<div>")],
    "a\0b": [paragraph("a\ufffdb")],
}


def link(href, *children):
    return {"type": "link", "href": href, "children": list(children)}


def strong(*children):
    return {"type": "strong", "children": list(children)}


def emphasis(*children):
    return {"type": "emphasis", "children": list(children)}


INLINE = {
    "**a** and *b*": [strong("a"), " and ", emphasis("b")],
    "***a** b*": [emphasis(strong("a"), " b")],
    "*a **b***": [emphasis("a ", strong("b"))],
    "**a": ["**a"],
    "a_b_c * d": ["a_b_c * d"],
    "**“中文”**字": [strong("“中文”"), "字"],
    "~~a~~ ~b~": [{"type": "strike", "children": ["a"]}, " ~b~"],
    "`` a`b `` `c": [{"type": "code", "text": "a`b"}, " `c"],
    "*a `*` b*": [emphasis("a ", {"type": "code", "text": "*"}, " b")],
    "\\*a\\* \\n": ["*a* \\n"],
    "a\nb": ["a", {"type": "break"}, "b"],
    "\\(x*y*z\\) $5 and $6": [{"type": "math", "text": "x*y*z"}, " $5 and $6"],
    '[a *b*](https://x.y/(z) "t")': [link("https://x.y/(z)", "a ", emphasis("b"))],
    "*[a](https://x.y) b*": [emphasis(link("https://x.y/", "a"), " b")],
    "*a [b*](https://x.y)": ["*a ", link("https://x.y/", "b*")],
    "[https://x.y](https://x.y).": [link("https://x.y/", "https://x.y"), "."],
    "(https://x.y/z).": ["(", link("https://x.y/z", "https://x.y/z"), ")."],
    "<https://x.y>": [link("https://x.y/", "https://x.y")],
    "[a](javascript:b)": ["[a](javascript:b)"],
    "[a](JaVaScRiPt:b) [c](data:d) [e](/f)": ["[a](JaVaScRiPt:b) [c](data:d) [e](/f)"],
    "[a](https://)": ["[a](https://)"],
    "![a](https://x.y/z.png)": [link("https://x.y/z.png", "a")],
    "&lt;b&gt; &amp;amp; &copy;": ["<b> &amp; &copy;"],
    "<b>a</b>": ["<b>a</b>"],
}


def test_markdown_is_taken_apart(page, mock):
    page.open(mock.url)
    for text, expected in BLOCKS.items():
        assert strip(page.module("markdown", f"m.parse({json.dumps(text)})")) == expected, text
    for text, expected in INLINE.items():
        assert page.module("inline", f"m.parseInline({json.dumps(text)})") == expected, text


def test_the_time_for_hostile_markdown_is_in_proportion(page, mock):
    page.open(mock.url)
    for module, call, pieces in (
        ("inline", "parseInline", ("*a ", "**a*b_", "`a``", "[", "[a](", "$a", "\\(", '](b "', "*a **b ", "http://a.", "http://a" + "." * 9)),
        ("markdown", "parse", ("> ", "- ", "- a\n", "$$x\n", "|a|b|\n|-|-|\n", "\\|", "```\n", " - a\n\n", "> a\nb\n", "# ")),
    ):
        for piece in pieces:
            timed = f"(() => {{ const s = performance.now(); m.{call}({json.dumps(piece)}.repeat(40000)); return performance.now() - s; }})()"
            # It is a fraction of a second. What grows with the square of the length takes minutes.
            assert page.module(module, timed) < 5000, piece


def test_an_event_stream_can_be_cut_anywhere(page, mock):
    stream = "\ufeff: alive\n\ndata: {\"a\": 1}\r\n\r\nevent: b\ndata:x\rdata: y\r\rdata\n\nid: 3\n\ndata: ü🌊\n\ndata: cut off"
    expected = [
        {"event": "message", "data": '{"a": 1}'},
        {"event": "b", "data": "x\ny"},
        {"event": "message", "data": ""},
        {"event": "message", "data": "ü🌊"},
    ]
    page.open(mock.url)
    text = json.dumps(stream)
    for size in (1, 2, 3, 5, 1000):
        found = page.module("sse", f"(() => {{ const p = new m.EventParser(), t = {text}, all = []; for (let i = 0; i < t.length; i += {size}) all.push(...p.push(t.slice(i, i + {size}))); return all; }})()")
        assert found == expected, size
    # Characters are cut in two as well.
    bytewise = f"(async () => {{ const bytes = new TextEncoder().encode({text}); const all = []; for await (const e of m.events(new ReadableStream({{start(c) {{ for (const b of bytes) c.enqueue(new Uint8Array([b])); c.close(); }}}}))) all.push(e); return all; }})()"
    script = f"const done = arguments[0]; import('/ui/sse.js').then((m) => {bytewise}).then(done, (e) => done(String(e)))"
    assert page.driver.execute_async_script(script) == expected


def test_numbers_have_units(page, mock):
    page.open(mock.url)
    for expression, expected in {
        "m.count(1204)": "1,204",
        "m.count(null)": "–",
        "m.rate(41.23)": "41.2 tokens/s",
        "m.rate(0)": "0 tokens/s",
        "m.percent(0.048)": "4.8 %",
        "m.percent(NaN)": "–",
        "m.duration(0.0421)": "42 ms",
        "m.duration(0.9999)": "1.00 s",
        "m.duration(125)": "2 min 5 s",
        "m.duration(12000)": "3 h 20 min",
        "m.bytes(3400000000)": "3.17 GiB",
        "m.plural(1, 'token')": "1 token",
    }.items():
        assert page.module("format", expression) == expected, expression
    assert page.module("api", "[m.retryAfter('7'), m.retryAfter(null), m.retryAfter('soon')]") == [7, None, None]
    assert page.module("api", "m.retryAfter('Thu, 01 Jan 1970 00:00:30 GMT', 10000)") == 20
    assert page.module("chart", "[0, 0.03, 1, 180, 201].map(m.niceTop)") == [1, 0.05, 1, 200, 250]
    reading = "m.readingState({total: 8000, cache: 1000, processed: 4500, time_ms: 1750})"
    assert page.module("answer", reading) == {"share": 0.5625, "rate": 2000, "left": 1.75}


# A conversation.


def test_an_answer_streams_and_tells_its_speed(page, mock):
    mock.gap = 0.2
    page.open(mock.url)
    page.until(lambda: page.text("#empty-model") == "hadal-mock")
    page.ask("hello you", wait=False)
    page.until(lambda: [0 < len(text) < 25 for text in page.answers()] == [True])
    assert page.one(".answer").get_attribute("aria-busy") == "true"
    page.idle()
    assert page.answers() == ["Hello there. How deep shall we go?"]
    assert page.one(".answer").get_attribute("aria-busy") == "false"
    assert re.fullmatch(r"\d+ ms to the first token · [\d.]+ tokens/s · 9 tokens · 50 % of the prompt cached", page.text(".stats"))
    assert page.text("#context") == "19 of 4,096 tokens deep"
    assert page.text(".depth") == "19"
    assert page.driver.title == "hello you · Hadal"
    assert mock.bodies() == [
        {
            "model": "hadal-mock",
            "messages": [{"role": "user", "content": "hello you"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
        }
    ]


def test_settings_are_sent_and_kept(page, mock):
    page.open(mock.url)
    page.button("Settings").click()
    page.one("#system").send_keys("Be brief.")
    page.one("#thinking option[value=true]").click()
    chosen = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "max_tokens": 64, "seed": 7}
    for name, value in chosen.items():
        page.one(f"#sampling-{name}").send_keys(str(value))
    page.picture("settings")
    page.press(Keys.ESCAPE)
    assert page.text("#system-line") == "System: Be brief."
    page.ask("hello")
    sent = mock.bodies()[0]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert sent["chat_template_kwargs"] == {"thinking": True}
    assert {name: sent[name] for name in chosen} == chosen

    # After a reload, and in the next conversation; what is no valid number is told and not sent.
    page.driver.refresh()
    page.one("#new").click()
    page.button("Settings").click()
    temperature = page.one("#sampling-temperature")
    assert temperature.get_attribute("value") == "0.7"
    temperature.send_keys(Keys.ARROW_UP)
    assert temperature.get_attribute("value") == "0.75"
    page.one("#sampling-top_p").send_keys(Keys.HOME, "9")
    assert page.text("#sampling-top_p-hint") == "A number from 0 to 1; not used as it is."
    assert page.one("#sampling-top_p").get_attribute("aria-invalid") == "true"
    page.button("Done").click()
    page.ask("hello")
    assert (mock.bodies()[1]["temperature"], mock.bodies()[1]["top_p"]) == (0.75, 0.9)
    page.button("Settings").click()
    page.button("Back to the server's defaults").click()
    page.button("Done").click()
    page.ask("hello")
    assert not set(mock.bodies()[2]) & {*chosen, "chat_template_kwargs"}


def test_reasoning_is_folded_and_not_sent_again(page, mock):
    page.open(mock.url)
    page.ask("reason please")
    assert page.answers() == ["About 10,935 m."]
    assert re.fullmatch(r"Thought for [\d.]+ (ms|s), 25 tokens", page.text(".reasoning summary"))
    assert not page.seen(".reasoning .prose")
    page.one(".reasoning summary").click()
    page.until(lambda: page.text(".reasoning .prose").replace("\n\n", "\n") == REASONING.replace("*", "").replace("\n\n", "\n"))
    page.picture("reasoning")
    page.ask("hello")
    assert mock.bodies()[1]["messages"][1] == {"role": "assistant", "content": "About **10,935 m**."}


def test_markdown_becomes_elements(page, mock):
    page.open(mock.url)
    page.ask("markdown")
    page.picture("markdown")
    prose = ".answer > .prose"
    assert page.text(f"{prose} > h3") == "The hadal zone"
    assert [each.text for each in page.all(f"{prose} td.right")] == ["10,935", "10,820", "7,290"]
    assert len(page.all(f"{prose} ol > li > ul > li")) == 2
    assert [each.is_selected() for each in page.all(f"{prose} .task input")] == [True, False]
    assert page.text(f"{prose} pre.math") == "\\int_0^h \\rho g \\, dz = \\rho g h"
    links = [(each.get_attribute("href"), each.get_attribute("rel")) for each in page.all(f"{prose} a")]
    assert links == [(f"https://example.invalid/{path}", "noopener noreferrer nofollow") for path in ("deep", "a")]


def test_a_growing_answer_is_what_the_whole_would_be(page, mock):
    """Blocks that did not change keep their elements; the result must not depend on how the text came."""
    page.open(mock.url)
    text = json.dumps(MARKDOWN + CODE + HOSTILE)
    script = f"""
        const done = arguments[0];
        import("/ui/render.js").then(({{ MarkdownView }}) => {{
            const text = {text};
            const [grown, whole] = [document.createElement("div"), document.createElement("div")];
            const view = new MarkdownView(grown);
            for (let end = 0; end < text.length; end += 37) view.update(text.slice(0, end));
            view.update(text);
            new MarkdownView(whole).update(text);
            const first = grown.firstElementChild;
            view.update(text + "!");
            done([first === grown.firstElementChild, whole.isEqualNode(grown), (view.update(text), whole.isEqualNode(grown))]);
        }});"""
    assert page.driver.execute_async_script(script) == [True, False, True]


def test_hostile_answers_stay_text(page, mock):
    page.open(mock.url)
    page.ask("hostile")
    page.picture("hostile-end")
    page.js("scrollTo(0, 0)")
    page.picture("hostile")
    assert page.js("return window.owned") is None
    inside = page.js(
        "return [...new Set([...document.querySelectorAll('.answer > .prose *')].map((e) => e.localName))].sort()"
    )
    assert not set(inside) & {"script", "img", "b", "svg", "i", "iframe", "style"}, inside
    addresses = {each.get_attribute("href") for each in page.all(".answer > .prose a")}
    assert all(address.startswith("https://example.invalid/") for address in addresses)
    assert "<script>window.owned = 1</script>" in page.answers()[0]
    assert "[press me](javascript:window.owned=3)" in page.answers()[0]
    assert page.js("return document.documentElement.scrollWidth <= innerWidth"), "a long line widens the page"


def test_copying(page, mock):
    page.driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]})
    page.open(mock.url)
    page.ask("code")
    clipboard = "const done = arguments[0]; navigator.clipboard.readText().then(done, (e) => done(String(e)))"
    code = page.button("Copy code")
    page.js("arguments[0].scrollIntoView()", code)
    code.click()
    page.until(lambda: code.text == "Copied")
    assert page.driver.execute_async_script(clipboard) == CODE.split("```")[1].removeprefix("rust\n").removesuffix("\n")
    page.button("Copy answer").click()
    page.until(lambda: page.driver.execute_async_script(clipboard) == CODE)
    page.picture("code")
    # Where the browser has no clipboard to write to, the older way is taken.
    page.js("navigator.clipboard.writeText = () => Promise.reject(new Error('no')); scrollTo(0, 0)")
    page.button("Copy", ".question").click()
    page.until(lambda: page.driver.execute_async_script(clipboard) == "code")


@pytest.mark.parametrize("how", ["button", "Esc"])
def test_stopping_keeps_what_came_and_tells_the_server(page, mock, how):
    page.open(mock.url)
    page.ask("endless", wait=False)
    page.until(lambda: [len(text) > 20 for text in page.answers()] == [True])
    if how == "button":
        page.one("#stop").click()
    else:
        page.press(Keys.ESCAPE)
    page.idle()
    page.until(lambda: mock.left == 1)
    assert page.text(".note") == "Stopped."
    assert page.answers()[0].startswith("0 1 2 3")
    assert "about" in page.text(".stats")
    page.ask("hello")
    assert page.answers()[1].startswith("Hello there")


def test_another_answer_and_another_question_lose_nothing(page, mock):
    page.open(mock.url)
    page.ask("first")
    page.ask("second")
    page.button("Answer again", ".answer:nth-child(2)").click()
    page.idle()
    # Beside the first answer, with nothing behind it; both ways lead on.
    assert page.answers() == ["You said: first"]
    assert page.text(".answer .steps span") == "2 / 2"
    assert mock.bodies()[2]["messages"] == [{"role": "user", "content": "first"}]
    page.button("Earlier version").click()
    assert page.answers() == ["You said: first", "You said: second"]

    page.button("Edit", ".question").click()
    field = page.one(".edit textarea")
    assert field.get_attribute("value") == "first"
    field.send_keys(" other", Keys.ENTER)
    page.idle()
    assert page.answers() == ["You said: first other"]
    assert mock.bodies()[3]["messages"] == [{"role": "user", "content": "first other"}]
    assert page.text(".question .steps span") == "2 / 2"
    page.picture("versions")
    page.button("Edit", ".question").click()
    page.press("nonsense", Keys.ESCAPE)
    assert not page.all(".edit")
    assert page.text(".said") == "first other"
    page.driver.refresh()
    page.until(lambda: page.answers() == ["You said: first other"])


def test_reading_a_long_prompt_shows_progress(page, mock):
    page.open(mock.url)
    page.ask("slow", wait=False)
    shape = r"Reading the prompt: [\d,]+ of 8,000 tokens · 1,000 cached · 2,3\d\d tokens/s · (\d+ ms|[\d.]+ s) left"
    page.until(lambda: re.fullmatch(shape, page.text(".progress p")))
    first = float(page.one(".progress progress").get_property("value"))
    page.picture("progress")
    page.until(lambda: float(page.one(".progress progress").get_property("value")) > max(0.5, first))
    page.idle()
    assert not page.seen(".progress")


def test_a_long_message_is_folded(page, mock):
    page.open(mock.url)
    page.js("arguments[0].value = 'hello '.repeat(2000)", page.one("#prompt"))
    page.one("#send").click()
    page.idle()
    folded = page.one(".said").size["height"]
    page.button("Show all").click()
    assert page.one(".said").size["height"] > 2 * folded


def test_a_draft_survives_a_look_at_the_status(page, mock):
    page.open(mock.url)
    page.press("half a thou")
    page.js("location.hash = '#status'")
    page.until(lambda: page.seen("#cards"))
    page.button("To the conversation").click()
    page.until(lambda: page.seen("#prompt"))
    page.press("ght")
    assert page.one("#prompt").get_attribute("value") == "half a thought"


# What goes wrong is shown where it happened.


def test_a_refused_request_says_why_and_can_be_tried_again(page, mock):
    page.open(mock.url)
    page.ask("bad")
    assert page.one(".answer .message").get_attribute("role") == "alert"
    assert page.text(".answer .error") == "`temperature` is 9, but must be from 0 to 2\nRequest req-1\nTry again"
    page.picture("error")
    page.button("Try again").click()
    page.idle()
    assert len(mock.bodies()) == 2
    # The failed answer is no turn of the conversation.
    page.ask("hello")
    assert [each["content"] for each in mock.bodies()[2]["messages"]] == ["bad", "hello"]


@pytest.mark.parametrize(
    "word, message",
    [
        ("break", "the engine stopped: out of memory"),
        ("cut", "The connection ended before the answer did."),
        ("proxy", "HTTP 502 Bad Gateway"),
    ],
)
def test_an_answer_that_breaks_keeps_its_beginning(page, mock, word, message):
    page.open(mock.url)
    page.ask(word)
    assert page.text(".answer .message") == message
    assert page.answers() == {"break": ["This answer will not"], "cut": ["This answer is cut"], "proxy": [""]}[word]
    page.button("Try again").click()
    page.idle()
    assert page.seen(".answer .steps") == (word != "proxy")


def test_an_answer_at_its_limit_says_so(page, mock):
    page.open(mock.url)
    page.ask("limit")
    assert page.text(".note").startswith("The answer reached its greatest length.")


def test_a_busy_server_is_asked_again_when_it_said(page, mock):
    page.open(mock.url)
    page.ask("busy", wait=False)
    page.until(lambda: page.seen(".countdown"))
    assert page.text(".answer .message") == "64 requests wait already, which is the limit"
    assert page.text(".countdown") in ("Trying again in 2 s.", "Trying again in 1 s.")
    asked = time.monotonic()
    page.picture("busy")
    page.until(lambda: page.answers() == ["You said: busy"])
    assert time.monotonic() - asked > 0.9
    assert not page.seen(".error")


def test_nobody_has_to_wait_for_a_busy_server(page, mock):
    page.open(mock.url)
    page.ask("full", wait=False)
    page.until(lambda: page.seen(".countdown"))
    assert re.fullmatch(r"Trying again in (90|89) s\.", page.text(".countdown"))
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.seen(".countdown"))
    page.button("Try again").click()
    page.until(lambda: page.seen(".countdown"))
    page.button("Do not wait").click()
    assert not page.seen(".countdown")
    assert page.button("Try again")


def test_a_server_that_is_gone(page, mock):
    page.open(mock.url)
    page.until(lambda: page.text("#empty-model") == "hadal-mock")
    mock.close()
    page.ask("hello")
    assert page.text(".answer .message") == "The server cannot be reached. Is it running?"


def test_another_server_with_another_model(page, mock):
    page.open(mock.url)
    page.until(lambda: page.text("#empty-model") == "hadal-mock")
    mock.models = ["newer"]
    page.ask("hello")
    assert page.text(".answer .message") == "there is no model hadal-mock"
    page.button("Try again").click()
    page.until(lambda: page.answers() == ["Hello there. How deep shall we go?"])
    assert mock.bodies()[-1]["model"] == "newer"


def test_a_key_is_asked_for_and_lives_as_long_as_the_tab(page):
    mock = Mock(keys=["secret"])
    page.open(mock.url)
    page.until(lambda: page.seen("#key-dialog"))
    assert page.text("#key-reason") == "the API key is missing or not known"
    page.picture("key")
    page.press("wrong", Keys.ENTER)
    page.until(lambda: mock.asked("/v1/models") == 2 and page.seen("#key-dialog"))
    page.press("secret", Keys.ENTER)
    page.until(lambda: page.text("#empty-model") == "hadal-mock")
    page.ask("hello")
    assert page.answers() == ["Hello there. How deep shall we go?"]
    page.driver.refresh()
    page.until(lambda: page.answers() == ["Hello there. How deep shall we go?"])
    assert "secret" not in json.dumps(page.js("return {...localStorage}"))
    page.button("Settings").click()
    page.one("#settings-key").send_keys(Keys.END, "x", Keys.ESCAPE)
    page.until(lambda: page.seen("#key-dialog"))
    page.press("secret", Keys.ENTER)
    page.until(lambda: not page.seen("#key-dialog"))
    # A key that has been withdrawn is asked for at the answer that failed, which then goes on.
    mock.keys = {"other"}
    page.ask("hello", wait=False)
    page.until(lambda: page.seen("#key-dialog"))
    page.press("other", Keys.ENTER)
    page.until(lambda: len(page.answers()) == 2 and page.answers()[1].startswith("Hello"))
    page.idle()
    # Whoever has none is left with the message.
    mock.keys = {"third"}
    page.ask("hello", wait=False)
    page.until(lambda: page.seen("#key-dialog"))
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.seen("#key-dialog"))
    assert page.text(".answer:last-child .message") == "the API key is missing or not known"
    mock.close()


# Several conversations.


def more(page, action):
    page.all(".more")[0].click()
    page.until(lambda: page.seen(".menu:popover-open"))
    page.button(action, ".menu:popover-open").click()


def titles(page):
    return page.js("return [...document.querySelectorAll('#list li > a')].map((e) => e.textContent)")


def test_conversations_are_kept_renamed_and_deleted(page, mock):
    page.open(mock.url)
    page.ask("hello first")
    page.one("#new").click()
    assert page.seen("#empty")
    page.ask("hello second")
    assert titles(page) == ["hello second", "hello first"]
    page.driver.refresh()
    page.until(lambda: titles(page) == ["hello second", "hello first"])
    assert page.text(".said") == "hello second"
    page.all("#list li > a")[1].click()
    page.until(lambda: page.text(".said") == "hello first")
    page.driver.back()
    page.until(lambda: page.text(".said") == "hello second")

    more(page, "Rename")
    page.picture("rename")
    page.press("<b>Depths</b>", Keys.ENTER)
    page.until(lambda: titles(page) == ["<b>Depths</b>", "hello first"])
    assert page.text("#title") == "<b>Depths</b>"
    more(page, "Delete")
    page.button("Keep").click()
    assert len(titles(page)) == 2
    more(page, "Delete")
    page.button("Delete", "#delete-dialog").click()
    page.until(lambda: titles(page) == ["hello first"])
    assert page.seen("#empty")
    page.driver.refresh()
    page.until(lambda: titles(page) == ["hello first"])


def test_an_answer_goes_on_behind_another_conversation(page, mock):
    mock.gap = 0.05
    page.open(mock.url)
    page.ask("hello", wait=False)
    page.until(lambda: page.seen(".answer"))
    page.one("#prompt").send_keys("a draft")
    page.one("#new").click()
    page.until(lambda: page.seen("#empty"))
    assert page.one("#prompt").get_attribute("value") == ""
    page.until(lambda: page.seen("#list .live"))
    page.until(lambda: not page.seen("#list .live"))
    page.one("#list li > a").click()
    page.until(lambda: page.answers() == ["Hello there. How deep shall we go?"])
    assert page.one("#prompt").get_attribute("value") == "a draft"


def test_export_and_import(page, mock, tmp_path):
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.open(mock.url)
    page.ask("reason")
    more(page, "Export")
    page.until(lambda: list(tmp_path.glob("hadal-*.json")))
    [file] = tmp_path.glob("hadal-*.json")
    exported = json.loads(file.read_text())
    [conversation] = exported["conversations"]
    assert [turn["content"] for turn in conversation["turns"]] == ["reason", "About **10,935 m**."]
    assert conversation["turns"][1]["reasoning"] == REASONING

    damaged = conversation | {"id": "1" * 16, "turns": [{"id": 1, "parent": 5, "role": "user", "content": ""}]}
    exported["conversations"].append(damaged)
    file.write_text(json.dumps(exported))
    page.js("localStorage.clear(); location.hash = ''; location.reload()")
    page.until(lambda: titles(page) == [])
    page.one("#import-file").send_keys(str(file))
    page.until(lambda: titles(page) == ["reason"])
    assert page.text("#list-note") == "1 conversation imported, 1 refused (number 2: turn 1: `parent` is no earlier turn)."
    page.one("#import-file").send_keys(str(file))
    page.until(lambda: page.text("#list-note").startswith("0 conversations imported, 1 here already"))
    (tmp_path / "other.json").write_text("{")
    page.one("#import-file").send_keys(str(tmp_path / "other.json"))
    page.until(lambda: page.text("#list-note") == "other.json is not JSON, so nothing was imported.")


def test_storage_that_is_damaged_or_full(page, mock):
    page.open(mock.url)
    page.js("localStorage.setItem('hadal.conversation.x', '{'); localStorage.setItem('hadal.settings', '[')")
    page.driver.refresh()
    page.until(lambda: page.text("#list-note") == "1 stored conversation cannot be read and was left as it is.")
    page.js("for (let n = 0, s = 'x'.repeat(1 << 20); s; n += 1) try { localStorage.setItem(n, s) } catch { s = s.slice(s.length / 2 + 1) }")
    page.ask("hello")
    assert page.answers() == ["Hello there. How deep shall we go?"]
    assert page.text("#list-note").startswith("The browser's storage is full")
    assert page.js("return localStorage.getItem('hadal.conversation.x')") == "{"


def test_the_model_can_be_chosen(page):
    mock = Mock(models=["small", "large"])
    page.open(mock.url)
    page.until(lambda: page.seen("#model"))
    page.one("#model option[value=large]").click()
    page.ask("hello")
    assert mock.bodies()[0]["model"] == "large"
    page.driver.refresh()
    page.until(lambda: page.one("#model").get_attribute("value") == "large")
    mock.close()


# By keyboard, by ear, on a phone, in the dark.


def test_everything_works_by_keyboard(page, mock):
    page.open(mock.url)
    assert page.focused() == "prompt"
    page.press("a")
    ActionChains(page.driver).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).send_keys("b").perform()
    assert page.one("#prompt").get_attribute("value") == "a\nb"
    page.press(Keys.ENTER)
    page.until(lambda: page.answers() == ["You said: a\nb"])
    page.js("document.activeElement.blur()")
    page.press("/")
    assert page.focused() == "prompt"
    assert page.one("#prompt").get_attribute("value") == ""
    page.press("/")
    assert page.one("#prompt").get_attribute("value") == "/"

    # Tab reaches everything that a pointer can press, and shows where it is.
    page.js("document.getElementById('skip').focus()")
    visited = set()
    for _ in range(60):
        at = page.driver.switch_to.active_element
        if at.tag_name == "body" or at.id in visited:
            break
        visited.add(at.id)
        style = page.js("const s = getComputedStyle(arguments[0]); return [s.outlineStyle, s.outlineWidth]", at)
        in_composer = at.get_attribute("id") == "prompt"
        assert in_composer or (style[0] != "none" and style[1] != "0px"), at.get_attribute("outerHTML")[:200]
        page.press(Keys.TAB)
    controls = [each for each in page.all("a, button, textarea, select, summary") if each.is_displayed() and each.is_enabled()]
    missed = [each.get_attribute("outerHTML")[:120] for each in controls if each.id not in visited]
    assert missed == []
    unnamed = page.js(
        "return [...document.querySelectorAll('input, textarea, select')].filter((e) => !e.labels?.length && !e.ariaLabel).map((e) => e.outerHTML)"
    )
    assert unnamed == []
    page.js("document.activeElement.blur()")
    page.press(Keys.TAB, Keys.ENTER)
    assert page.focused() == "prompt"


def test_answers_are_announced_in_sentences(page, mock):
    mock.gap = 0.25
    page.open(mock.url)
    page.js("""
        window.heard = [];
        new MutationObserver(() => heard.push(announcer.textContent)).observe(announcer, {childList: true, characterData: true, subtree: true});
    """)
    assert page.one("#announcer").get_attribute("aria-live") == "polite"
    page.ask("hello")
    assert page.js("return heard.join(' ')") == "Hello there. How deep shall we go? End of the answer."
    mock.gap = 0.05
    page.js("heard.length = 0")
    page.ask("endless", wait=False)
    page.until(lambda: [len(text) > 300 for text in page.answers()] == [False, True], 20)
    assert page.js("return heard.length") <= 2


def targets(page):
    """The visible controls that are smaller than 44 pixels."""
    return page.js("""
        const small = [];
        for (const e of document.querySelectorAll("a, button, input, select, textarea, summary")) {
            const { width, height } = e.getBoundingClientRect();
            if (!e.checkVisibility({ visibilityProperty: true }) || e.closest("[inert], .skip, p, .prose") && !e.matches("button")) continue;
            if (width < 43.5 || height < 43.5) small.push(`${e.outerHTML.slice(0, 80)} ${width}x${height}`);
        }
        return small;""")


def test_a_phone_has_one_column(page, mock):
    page.phone()
    page.open(mock.url)
    page.picture("phone-empty")
    fits = "return document.documentElement.scrollWidth <= innerWidth && document.body.scrollWidth <= innerWidth"
    for word in ("reason", "markdown", "code", "bad"):
        page.one("#prompt").send_keys(word)
        page.one("#send").click()
        page.idle()
        page.picture(f"phone-{word}")
        assert page.js(fits), word
    assert targets(page) == []
    # A browser enlarges the page when a field with smaller text is touched, and nothing may keep people from enlarging it.
    sizes = page.js("return [...document.querySelectorAll('input:not([hidden]), textarea')].map((e) => parseFloat(getComputedStyle(e).fontSize))")
    assert min(sizes) >= 16
    assert not re.search("maximum-scale|user-scalable", page.one("meta[name=viewport]").get_attribute("content"))

    assert not page.seen("#side")
    page.button("Menu", "#chat").click()
    page.until(lambda: page.one("#side").rect["x"] == 0)
    assert page.focused() == "close-side"
    page.picture("phone-menu")
    assert targets(page) == []
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.seen("#side"))
    page.button("Settings").click()
    page.picture("phone-settings")
    assert targets(page) == []
    page.button("Done").click()
    page.js("location.hash = '#status'")
    page.until(lambda: page.seen("#cards"))
    page.picture("phone-status")
    assert page.js(fits)
    assert targets(page) == []
    # Enter is the only way to a new line here.
    page.js("location.hash = ''")
    page.until(lambda: page.seen("#prompt"))
    page.one("#prompt").send_keys("a", Keys.ENTER, "b")
    assert page.one("#prompt").get_attribute("value") == "a\nb"


def luminance(color):
    channels = [int(each) / 255 for each in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_the_light_and_in_the_dark(page, mock, scheme):
    page.emulate(prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    page.open(mock.url)
    page.ask("bad")
    page.ask("markdown")
    page.picture(f"{scheme}-chat")
    paper = page.js("return getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) < 0.1) == (scheme == "dark")
    for selector in (".said", ".answer .prose", ".stats", ".answer .message", ".prose a", "#context p", ".depth", ".turn .quiet"):
        style = page.js(
            "const e = document.querySelector(arguments[0]); let b = e; while (getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)') b = b.parentElement;"
            "return [getComputedStyle(e).color, getComputedStyle(b).backgroundColor]",
            selector,
        )
        lighter, darker = sorted(map(luminance, style), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (selector, style)
    assert page.js("return document.getAnimations().length") == 0


# The status.


def test_the_status_shows_what_the_server_does(page, mock):
    page.open(mock.url, "#status")
    page.until(lambda: mock.asked("/stats") >= 4)
    page.until(lambda: "tokens/s" in page.text("section[aria-label=Generated] b"))
    facts = dict(zip([e.text for e in page.all("#facts dt")], [e.text for e in page.all("#facts dd")]))
    assert (facts["State"], facts["Model"], facts["Context"], facts["Rejected"]) == ("ready", "hadal-mock", "4,096 tokens", "12")
    # Rates are differences of totals: the mock generates 140 tokens each second, give or take a wave of 40.
    generated = float(page.text("section[aria-label=Generated] b").split()[0])
    assert 90 < generated < 190
    assert len(page.all("section[aria-label=Generated] path")) == 1
    assert page.one("section[aria-label=Generated] path").get_attribute("d").count("L") >= 1
    assert re.fullmatch(r"\d+ %", page.text("section[aria-label='Proposed tokens accepted'] b"))
    assert page.text("section[aria-label='Cache on disk'] .hint").startswith("3.17 GiB of 8.00 GiB; 211 hits, 540 writes")
    assert len(page.all("section[aria-label='Balance of experts'] rect")) == 61
    page.picture("status")
    page.js("scrollTo(0, 1e6)")
    page.picture("status-end")

    # Without MTP, experts and a disk there is nothing to show of them; a restart begins anew.
    mock.totals = {"mtp": None, "experts": None, "kv_disk": None, "uptime_seconds": 0.5, "generation_tokens_total": 3}
    page.until(lambda: not page.seen("section[aria-label='Balance of experts']"))
    page.until(lambda: page.text("section[aria-label=Generated] b") == "–")
    assert not page.seen("section[aria-label='Cache on disk']")
    mock.totals = {name: {"count": 0, "p50": None, "p95": None, "p99": None} for name in ("ttft_seconds", "itl_seconds", "e2e_seconds")}
    page.until(lambda: page.text("section[aria-label='Time to the first token'] .hint") == "None in the last minute.")


def test_nobody_asks_for_the_status_when_nobody_looks(page, mock):
    page.open(mock.url, "#status")
    page.until(lambda: mock.asked("/stats") >= 2)
    page.js("location.hash = ''")
    page.until(lambda: page.seen("#prompt"))
    time.sleep(0.3)
    asked = mock.asked("/stats")
    time.sleep(1.5)
    assert mock.asked("/stats") == asked
    page.js("location.hash = '#status'")
    page.until(lambda: mock.asked("/stats") > asked)
    # A tab in the background.
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    time.sleep(0.3)
    asked = mock.asked("/stats")
    time.sleep(1.5)
    hidden = mock.asked("/stats") == asked
    page.driver.close()
    page.driver.switch_to.window(first)
    assert hidden
    page.until(lambda: mock.asked("/stats") > asked)


def test_a_status_that_fails_says_so_and_comes_back(page, mock):
    mock.stats_error = "the engine does not answer"
    page.open(mock.url, "#status")
    page.until(lambda: page.seen("#status-error"))
    assert page.text("#status-error .message") == "the engine does not answer"
    page.picture("status-error")
    mock.stats_error = None
    page.button("Try again").click()
    page.until(lambda: page.seen("#cards") and not page.seen("#status-error"))


# The files.


def test_the_files_are_small_and_keep_the_policy():
    files = {path.name: path.read_text() for path in PAGE.iterdir()}
    assert sum(len(text.encode()) for text in files.values()) < 140_000
    html = files["index.html"]
    assert re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*src)", html) is None
    named = set(re.findall(r'(?:href|src)="ui/([^"]+)"', html))
    for name, text in files.items():
        if name.endswith(".js"):
            assert re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text) is None, name
            named |= set(re.findall(r'from "\./([^"]+)"', text))
    assert named | {"index.html"} == set(files), "a file that nothing loads, or the other way round"


# The real server, whose fixture stands in conftest.py.


def test_a_real_server_answers(page, server):
    page.open(server.url)
    page.until(lambda: page.text("#empty-model") == server.model, 30)
    page.button("Settings").click()
    page.one("#sampling-max_tokens").send_keys("16")
    page.one("#sampling-temperature").send_keys("0")
    page.button("Done").click()
    page.ask("Hello")
    page.until(lambda: not page.seen("#stop"), 60)
    assert not page.seen(".answer .error"), page.text(".answer .error")
    assert re.search(r"\d+ tokens?", page.text(".stats"))
    assert re.fullmatch(r"[\d,]+ of [\d,]+ tokens deep", page.text("#context"))
    page.button("Answer again").click()
    page.until(lambda: not page.seen("#stop"), 60)
    assert page.text(".answer .steps span") == "2 / 2"
    page.js("location.hash = '#status'")
    page.until(lambda: page.seen("#cards"))
    page.until(lambda: page.text("#facts div:first-child dd") == "ready" and page.all("section[aria-label=Generated] path"))
    assert not page.seen("#status-error")
