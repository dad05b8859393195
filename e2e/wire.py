"""Requests to a server, well-formed ones and bytes that no client library would send."""

import http.client
import json
import re
import socket
import time
from urllib.parse import urlsplit


class Answer:
    """A whole response."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        """The stable name of an error, in either dialect."""
        return self.json["error"]["code"]

    def events(self):
        """The data of the events of a stream."""
        return [line[6:] for line in self.body.decode().split("\n") if line.startswith("data: ")]

    def __repr__(self):
        return f"{self.status} {self.body[:300]!r}"


class Client:
    """One connection, kept for many requests."""

    def __init__(self, url, timeout=30):
        self.url = url
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)

    def ask(self, path, body=None, method=None, **headers):
        """A GET, or a POST of `body`: bytes as they are, anything else as JSON."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            headers.setdefault("content-type", "application/json")
        self.connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        response = self.connection.getresponse()
        return Answer(response.status, response.headers, response.read())

    def close(self):
        self.connection.close()


def ask(url, path, body=None, timeout=30, **headers):
    client = Client(url, timeout)
    try:
        return client.ask(path, body, **headers)
    finally:
        client.close()


def chat(text="hello", **fields):
    """The body of a short request for a chat."""
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 4, **fields}


def numbers(url):
    """All numbers of /metrics, by name and labels as they are printed."""
    found = {}
    for line in ask(url, "/metrics").body.decode().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def number(url, name, **labels):
    """The sum of a metric over all of its series that have these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    series = numbers(url).items()
    return sum(v for key, v in series if re.match(rf"{name}(\{{|$)", key) and all(label in key for label in wanted))


def stats(url):
    return ask(url, "/stats").json


def until(what, condition, seconds=20, pause=0.02):
    """Waits until `condition()` holds, and gives what it gave."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {seconds} s")


class Raw:
    """A connection for bytes."""

    def __init__(self, url, timeout=10, receive_buffer=None):
        self.socket = socket.socket(socket.AF_INET)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect((urlsplit(url).hostname, urlsplit(url).port))

    def send(self, data):
        """Sends what the server still takes."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return self

    def end(self):
        """Says that nothing more is sent."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        return self

    def rest(self, end=None):
        """What comes until the server closes the connection, or until `end` has come."""
        data = b""
        try:
            while end is None or end not in data:
                piece = self.socket.recv(1 << 16)
                if not piece:
                    break
                data += piece
        except ConnectionResetError:
            pass
        return data

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def statuses(data):
    """The statuses of the responses in `data`."""
    return [int(status) for status in re.findall(rb"(?:^|\n)HTTP/1\.[01] (\d{3})", data)]


def post(path, body, *headers):
    """The bytes of a POST."""
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json", *headers]
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
