"""What the tests of a whole program share: the program, small models, and servers on free ports."""

import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "crates/tokenizer/testdata/tiny"
TEMPLATES = ROOT / "crates/tokenizer/src/chat/templates"


def program():
    """The program under test: HADAL_BIN, or what cargo builds."""
    if "HADAL_BIN" in os.environ:
        return Path(os.environ["HADAL_BIN"])
    subprocess.run(["cargo", "build", "--quiet", "-p", "cli"], cwd=ROOT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "hadal"


@pytest.fixture(scope="session")
def hadal():
    return program()


class Server:
    """A running `hadal serve`."""

    def __init__(self, hadal, *arguments, ready=True):
        command = [str(hadal), "serve", "--port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.log = []
        self.url = None
        found = threading.Event()

        def read():
            for line in self.process.stderr:
                self.log.append(line.rstrip("\n"))
                at = re.search(r"on (http://\S+)", line)
                if at and self.url is None:
                    self.url = at.group(1)
                    found.set()
            found.set()

        self.reader = threading.Thread(target=read, daemon=True)
        self.reader.start()
        found.wait(60)
        if self.url is None:
            self.process.kill()
            raise RuntimeError("the server did not start:\n" + "\n".join(self.log))
        self.model = None
        if ready:
            self.until_ready()

    def until_ready(self, seconds=60):
        end = time.time() + seconds
        while time.time() < end:
            if self.status("/readyz") == 200:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError("the server is not ready:\n" + "\n".join(self.log))

    def status(self, path, key=None):
        """The status of a GET; None if nobody answers."""
        request = urllib.request.Request(self.url + path)
        if key:
            request.add_header("authorization", f"Bearer {key}")
        try:
            return urllib.request.urlopen(request, timeout=10).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def resident(self):
        """Bytes of memory that it holds."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self, seconds=30):
        """Asks it to end; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.reader.join(5)
        return code


def make_model(hadal, out, template="v3_1", **sets):
    """A random model with the tokenizer of the tests and one of the published chat formats: v3, v3_0324, r1, v3_1."""
    sets = {"vocab_size": 520, "max_position_embeddings": 2048, **sets}
    pairs = [item for key, value in sets.items() for item in ("--set", f"{key}={value}")]
    command = [hadal, "init", "--preset", "tiny", "--init-std", "0.15", "--seed", "4", "--dtype", "f32", "--out", out]
    subprocess.run([*map(str, command), *pairs], check=True, capture_output=True)
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(TOKENIZER / name, out)
    shutil.copy(TEMPLATES / f"{template}.jinja", Path(out) / "chat_template.jinja")
    return Path(out)


@pytest.fixture(scope="session")
def models(hadal, tmp_path_factory):
    """Model directories by chat format, made when they are asked for."""
    made = {}

    def model(template="v3_1", **sets):
        key = (template, *sorted(sets.items()))
        if key not in made:
            made[key] = make_model(hadal, tmp_path_factory.mktemp("model") / "tiny", template, **sets)
        return made[key]

    return model


@pytest.fixture
def serve(hadal, models):
    """Starts servers, and ends them with the test."""
    running = []

    def start(*arguments, template="v3_1", ready=True, model=None):
        given = any(a in ("--model", "--model-dir", "--router") for a in arguments)
        if not given:
            arguments = ("--model", model or models(template), *arguments)
        server = Server(hadal, *arguments, ready=ready)
        server.model = "tiny"
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def server_of(hadal, models):
    """One server for each chat format, for all tests that leave it as it is."""
    running = {}

    def start(template):
        if template not in running:
            running[template] = Server(hadal, "--model", models(template), "--seed", "1")
            running[template].model = "tiny"
        return running[template]

    yield start
    for server in running.values():
        assert server.stop() == 0, "\n".join(server.log[-20:])


@pytest.fixture(scope="session")
def server(hadal, models):
    """One server for all tests that leave it as it is."""
    server = Server(hadal, "--model", models("v3_1"), "--seed", "1")
    server.model = "tiny"
    yield server
    assert server.stop() == 0, "\n".join(server.log[-20:])
