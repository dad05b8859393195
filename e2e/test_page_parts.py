"""The parts of the web page that only compute, and its files, in the browser that runs them."""

import json
import re

from mock import CODE, HOSTILE, MARKDOWN, PAGE

pytest_plugins = ["browser"]


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
    '[a *b*](https://x.test/(z) "t")': [link("https://x.test/(z)", "a ", emphasis("b"))],
    "*[a](https://x.test) b*": [emphasis(link("https://x.test/", "a"), " b")],
    "*a [b*](https://x.test)": ["*a ", link("https://x.test/", "b*")],
    "[https://x.test](https://x.test).": [link("https://x.test/", "https://x.test"), "."],
    "(https://x.test/z).": ["(", link("https://x.test/z", "https://x.test/z"), ")."],
    "<https://x.test>": [link("https://x.test/", "https://x.test")],
    "[a](javascript:b)": ["[a](javascript:b)"],
    "[a](JaVaScRiPt:b) [c](data:d) [e](/f)": ["[a](JaVaScRiPt:b) [c](data:d) [e](/f)"],
    "[a](https://)": ["[a](https://)"],
    "![a](https://x.test/z.png)": [link("https://x.test/z.png", "a")],
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
        (
            "inline",
            "parseInline",
            ("*a ", "**a*b_", "`a``", "[", "[a](", "$a", "\\(", '](b "', "*a **b ", "http://a.", "http://a" + "." * 9),
        ),
        (
            "markdown",
            "parse",
            ("> ", "- ", "- a\n", "$$x\n", "|a|b|\n|-|-|\n", "\\|", "```\n", " - a\n\n", "> a\nb\n", "# "),
        ),
    ):
        for piece in pieces:
            timed = f"(() => {{ const s = performance.now(); m.{call}({json.dumps(piece)}.repeat(40000)); return performance.now() - s; }})()"
            # It is a fraction of a second. What grows with the square of the length takes minutes.
            assert page.module(module, timed) < 5000, piece


def test_an_event_stream_can_be_cut_anywhere(page, mock):
    stream = '\ufeff: alive\n\ndata: {"a": 1}\r\n\r\nevent: b\ndata:x\r\ndata: y\r\rdata\n\nid: 3\n\ndata: ü🌊\n\ndata: cut off'
    expected = [
        {"event": "message", "data": '{"a": 1}'},
        {"event": "b", "data": "x\ny"},
        {"event": "message", "data": ""},
        {"event": "message", "data": "ü🌊"},
    ]
    page.open(mock.url)
    text = json.dumps(stream)
    for size in (1, 2, 3, 5, 1000):
        found = page.module(
            "sse",
            f"(() => {{ const p = new m.EventParser(), t = {text}, all = []; for (let i = 0; i < t.length; i += {size}) all.push(...p.push(t.slice(i, i + {size}))); return all; }})()",
        )
        assert found == expected, size
    # Characters are cut in two as well.
    bytewise = f"(async () => {{ const bytes = new TextEncoder().encode({text}); const all = []; for await (const e of m.events(new ReadableStream({{start(c) {{ for (const b of bytes) c.enqueue(new Uint8Array([b])); c.close(); }}}}))) all.push(e); return all; }})()"
    script = (
        f"const done = arguments[0]; import('/ui/sse.js').then((m) => {bytewise}).then(done, (e) => done(String(e)))"
    )
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


def test_the_files_are_small_and_keep_the_policy():
    files = {path.name: path.read_text() for path in PAGE.iterdir()}
    assert sum(len(text.encode()) for text in files.values()) < 140_000
    html = files["index.html"]
    assert re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*src)", html) is None
    named = set(re.findall(r'(?:href|src)="ui/([^"]+)"', html))
    for name, text in files.items():
        if name.endswith(".js"):
            assert (
                re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text) is None
            ), name
            named |= set(re.findall(r'from "\./([^"]+)"', text))
    assert named | {"index.html"} == set(files), "a file that nothing loads, or the other way round"
