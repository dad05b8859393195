"""A headless Chromium, and the page in it as a person sees it. What is here are fixtures for the tests beside it."""

import os
import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from mock import Mock

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


@pytest.fixture(scope="session")
def driver():
    binary, service = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not service:
        pytest.fail("chromium and chromedriver are not on PATH; install the packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--window-size={},{}".format(*DESKTOP),
    ):
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
