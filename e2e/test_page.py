"""The web page in a real Chromium, headless.

    pip install selenium pytest; apt-get install chromium chromium-driver
    pytest e2e/test_page.py e2e/test_page_parts.py

Tests that need a certain answer talk to the mock of `mock.py`; the last one talks to a real server.
HADAL_SCREENSHOTS=DIR keeps a picture of every view that is worth a look.
"""

import json
import re
import time

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from mock import CODE, REASONING, Mock

pytest_plugins = ["browser"]


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
    assert re.fullmatch(
        r"\d+ ms to the first token · [\d.]+ tokens/s · 9 tokens · 50 % of the prompt cached", page.text(".stats")
    )
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
    page.until(
        lambda: page.text(".reasoning .prose").replace("\n\n", "\n") == REASONING.replace("*", "").replace("\n\n", "\n")
    )
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
    page.driver.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
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
    assert page.answers()[0].startswith("Number 0 is one.")
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
    page.until(lambda: mock.asked("/v1/models") == 6)
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
    assert (
        page.text("#list-note") == "1 conversation imported, 1 refused (number 2: turn 1: `parent` is no earlier turn)."
    )
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
    page.js(
        "for (let n = 0, s = 'x'.repeat(1 << 20); s; n += 1) try { localStorage.setItem(n, s) } catch { s = s.slice(s.length / 2 + 1) }"
    )
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
    controls = [
        each for each in page.all("a, button, textarea, select, summary") if each.is_displayed() and each.is_enabled()
    ]
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
    sizes = page.js(
        "return [...document.querySelectorAll('input:not([hidden]), textarea')].map((e) => parseFloat(getComputedStyle(e).fontSize))"
    )
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
    for selector in (
        ".said",
        ".answer .prose",
        ".stats",
        ".answer .message",
        ".prose a",
        "#context p",
        ".depth",
        ".turn .quiet",
    ):
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
    assert (facts["State"], facts["Model"], facts["Context"], facts["Rejected"]) == (
        "ready",
        "hadal-mock",
        "4,096 tokens",
        "12",
    )
    # Rates are differences of totals: the mock generates 140 tokens each second, give or take a wave of 40.
    generated = float(page.text("section[aria-label=Generated] b").split()[0])
    assert 90 < generated < 190
    assert len(page.all("section[aria-label=Generated] path")) == 1
    assert page.one("section[aria-label=Generated] path").get_attribute("d").count("L") >= 1
    assert re.fullmatch(r"\d+ %", page.text("section[aria-label='Proposed tokens accepted'] b"))
    assert page.text("section[aria-label='Cache on disk'] .hint").startswith(
        "3.17 GiB of 8.00 GiB; 211 hits, 540 writes"
    )
    assert len(page.all("section[aria-label='Balance of experts'] rect")) == 61
    page.picture("status")
    page.js("scrollTo(0, 1e6)")
    page.picture("status-end")

    # Without MTP, experts and a disk there is nothing to show of them; a restart begins anew.
    mock.totals = {"mtp": None, "experts": None, "kv_disk": None, "uptime_seconds": 0.5, "generation_tokens_total": 3}
    page.until(lambda: not page.seen("section[aria-label='Balance of experts']"))
    page.until(lambda: page.text("section[aria-label=Generated] b") == "–")
    assert not page.seen("section[aria-label='Cache on disk']")
    mock.totals = {
        name: {"count": 0, "p50": None, "p95": None, "p99": None}
        for name in ("ttft_seconds", "itl_seconds", "e2e_seconds")
    }
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
    assert not page.seen("#facts")
    page.picture("status-error")
    mock.stats_error = None
    page.button("Try again").click()
    page.until(lambda: page.seen("#cards") and not page.seen("#status-error"))


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
    page.until(
        lambda: page.text("#facts div:first-child dd") == "ready" and page.all("section[aria-label=Generated] path")
    )
    assert not page.seen("#status-error")
