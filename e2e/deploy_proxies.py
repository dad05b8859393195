"""A proxy between scripted servers and a client that looks at every byte."""

import os
import shutil
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
PATIENCE = 15.0


def program(name):
    """The path of a program. Where it is missing, a test is left out; in CI that is a failure."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        absent = f"{name} is not installed; on Debian it is a package of that name"
        pytest.fail(absent) if os.environ.get("CI") else pytest.skip(absent)
    return path


def free_ports(number):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_for(what, condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.02)


class Server:
    """A server of ours as a proxy sees it: /readyz, and answers that are streamed event by event as the test says."""

    def __init__(self):
        self.ready = 200
        self.refuses = False
        self.polls = 0
        self.seen = []  # (method, path, headers, body) of each request that is not for /readyz
        self.go_on = threading.Semaphore(0)  # a permit for each event after the first
        self.gone = threading.Event()  # somebody left before the end of an answer
        self.dies = False  # closes in the middle of the next answer
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                if self.path == "/readyz":
                    outer.polls += 1
                    self.short(outer.ready)
                else:
                    self.work(b"")

            def do_POST(self):
                self.work(self.rfile.read(int(self.headers["content-length"])))

            def short(self, status, *headers):
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def work(self, body):
                outer.seen.append((self.command, self.path, dict(self.headers), body))
                if outer.refuses:
                    self.short(503, ("retry-after", "1"))
                elif b'"stream"' in body:
                    self.stream()
                else:
                    self.short(200)

            def stream(self):
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for event in (b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"):
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
                    if not self.wait():
                        outer.gone.set()
                        self.close_connection = True
                        return
                    if outer.dies:
                        self.close_connection = True
                        return
                self.wfile.write(b"0\r\n\r\n")

            def wait(self):
                """Waits for a permit; false if the other side closes instead."""
                self.connection.settimeout(0.02)
                try:
                    while not outer.go_on.acquire(blocking=False):
                        try:
                            if self.connection.recv(1, socket.MSG_PEEK) == b"":
                                return False
                        except TimeoutError:
                            pass
                        except OSError:
                            return False
                    return True
                finally:
                    self.connection.settimeout(None)

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_):
                """A proxy that closes in the middle is part of the tests."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()


class Client:
    """One request on a connection of its own."""

    def __init__(self, port, method="POST", path="/v1/completions", body=b"{}", headers=()):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        lines = [f"{method} {path} HTTP/1.1", "host: hadal", "connection: close", *headers]
        if method == "POST":
            lines.append(f"content-length: {len(body)}")
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        self.received = b""

    def read(self):
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.received += data
        return data != b""

    def until(self, text):
        while text not in self.received:
            assert self.read(), f"closed before {text}: {self.received}"

    def rest(self):
        """Everything until the other side closes: status, body, and whether a stream came to its end."""
        while self.read():
            pass
        self.socket.close()
        head, _, body = self.received.partition(b"\r\n\r\n")
        return int(head.split()[1]), body, body.endswith(b"0\r\n\r\n")

    def has_ended(self):
        """Whether the end of a stream has come; reads what is there."""
        self.socket.settimeout(0.02)
        try:
            self.read()
        except TimeoutError:
            pass
        return self.received.endswith(b"0\r\n\r\n")

    def leave(self):
        self.socket.close()


class Proxy:
    """A running proxy, configured by a file of deploy/ in which only addresses are replaced."""

    def __init__(self, file, replacements, command, folder):
        text = (DEPLOY / file).read_text()
        for old, new in replacements.items():
            assert old in text, f"{file} has no {old}; the test has to follow the file"
            text = text.replace(old, new)
        self.config = folder / Path(file).name
        self.config.write_text(text)
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command(self.config), stdout=output, stderr=subprocess.STDOUT)

    def log(self):
        return self.output.read_text(errors="replace")

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(kind, servers, folder):
    """HAProxy or nginx in front of two servers; returns it and its port when it listens."""
    (port,) = free_ports(1)
    path = program(kind)
    addresses = {
        "127.0.0.1:8080": f"127.0.0.1:{port}",
        "127.0.0.1:8001": f"127.0.0.1:{servers[0].port}",
        "127.0.0.1:8002": f"127.0.0.1:{servers[1].port}",
    }
    if kind == "haproxy":
        proxy = Proxy("haproxy/haproxy.cfg", addresses, lambda config: [path, "-db", "-f", config], folder)
    else:
        addresses["/run/nginx.pid"] = str(folder / "nginx.pid")
        command = lambda config: [path, "-p", folder, "-c", config, "-g", "daemon off;"]  # noqa: E731
        proxy = Proxy("nginx/nginx.conf", addresses, command, folder)

    def listens():
        assert proxy.process.poll() is None, proxy.log()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            return False

    wait_for(f"{kind} listens", listens)
    return proxy, port
