"""Requests without a client package: every status, header and byte as it came."""

import hashlib
import http.client
import json
import time
import urllib.parse


class Reply:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        return json.loads(self.body)

    def error(self):
        """The error of a reply in either interface."""
        return self.json()["error"]

    def events(self):
        """The data of its events. A stream of OpenAI's interface ends with `[DONE]`."""
        blocks = self.body.decode().split("\n\n")
        data = [line[6:] for block in blocks for line in block.split("\n") if line.startswith("data: ")]
        return [event if event == "[DONE]" else json.loads(event) for event in data]


def ask(server, method, path, body=None, headers=(), host=None, timeout=60):
    """One request on a connection of its own. A body that is not bytes is sent as JSON."""
    address = urllib.parse.urlsplit(server.url).netloc
    connection = http.client.HTTPConnection(address, timeout=timeout)
    headers = dict(headers)
    if body is not None:
        headers.setdefault("content-type", "application/json")
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
    if host is not None:
        headers["host"] = host
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def post(server, path, body, **options):
    return ask(server, "POST", path, body, **options)


def get(server, path, **options):
    return ask(server, "GET", path, **options)


def metric(server, name):
    """The value of a metric that has one series."""
    for line in get(server, "/metrics").body.decode().splitlines():
        if line.startswith(name + "{") or line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    raise KeyError(name)


def wait_for(what, condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def key(name, secret, scope, rate=None):
    """An entry of a file of keys."""
    digest = hashlib.sha256(secret.encode()).hexdigest()
    limit = "" if rate is None else f"requests_per_minute = {rate}\n"
    return f'[[keys]]\nname = "{name}"\nsha256 = "{digest}"\nscope = "{scope}"\n{limit}\n'
