"""The examples of deploy/ for one machine: each is checked by its own program, then run in front of scripted servers."""

import re
import stat
import subprocess

import pytest

from deploy_proxies import DEPLOY, Client, Server, program, start, wait_for

STREAM = b'{"stream": true}'


@pytest.fixture
def servers():
    two = [Server(), Server()]
    yield two
    for server in two:
        server.close()


@pytest.fixture(params=["haproxy", "nginx"])
def proxy(request, servers, tmp_path):
    running, port = start(request.param, servers, tmp_path)
    running.kind = request.param
    running.port = port
    yield running
    running.close()


def ask(proxy, **request):
    return Client(proxy.port, **request).rest()


def test_haproxy_accepts_its_file():
    subprocess.run([program("haproxy"), "-c", "-V", "-f", DEPLOY / "haproxy/haproxy.cfg"], check=True)


def test_nginx_accepts_its_file(tmp_path):
    subprocess.run([program("nginx"), "-t", "-p", tmp_path, "-c", DEPLOY / "nginx/nginx.conf"], check=True)


def test_events_arrive_while_the_server_still_thinks(proxy, servers):
    client = Client(proxy.port, body=STREAM)
    # The next event is sent only after the one before has been read here.
    for event in (b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n"):
        client.until(event)
        for server in servers:
            server.go_on.release()
    status, _, is_whole = client.rest()
    assert (status, is_whole) == (200, True)


def test_a_server_that_works_gets_no_more_than_the_other(proxy, servers):
    running = [Client(proxy.port, body=STREAM) for _ in range(2)]
    for client in running:
        client.until(b"data: 1\n\n")
    assert [len(server.seen) for server in servers] == [1, 1]
    servers[0].go_on.release(3)
    wait_for("the first has ended", lambda: any(client.has_ended() for client in running))
    for _ in range(5):
        assert ask(proxy)[0] == 200
    assert [len(server.seen) for server in servers] == [6, 1]
    servers[1].go_on.release(3)


def test_a_server_that_is_not_ready_gets_nothing_and_ends_what_it_has(servers, tmp_path):
    proxy, port = start("haproxy", servers, tmp_path)
    try:
        running = [Client(port, body=STREAM) for _ in range(2)]
        for client in running:
            client.until(b"data: 1\n\n")
        servers[0].ready = 503
        wait_for("HAProxy has heard of it", lambda: "Server servers/one is DOWN" in proxy.log())
        for _ in range(10):
            assert Client(port).rest()[0] == 200
        assert [len(server.seen) for server in servers] == [1, 11]
        for server in servers:
            server.go_on.release(3)
        assert [client.rest()[2] for client in running] == [True, True]
        servers[0].ready = 200
        wait_for("HAProxy has heard of that too", lambda: "Server servers/one is UP" in proxy.log())
        for _ in range(4):
            Client(port).rest()
        assert len(servers[0].seen) > 1
    finally:
        proxy.close()


def test_a_refusal_is_not_seen_by_clients(proxy, servers):
    # What a server says that is full, or drains.
    servers[0].refuses = True
    for number in range(10):
        body = b'{"prompt": "%d"}' % number
        assert ask(proxy, body=body)[0] == 200
        assert servers[1].seen[-1][3] == body
    assert servers[0].seen, "it was asked"
    if proxy.kind == "nginx":
        assert len(servers[0].seen) == 1, "and then left alone for five seconds"


def test_a_server_that_is_gone_is_passed_over(proxy, servers):
    servers[0].close()
    assert [ask(proxy)[0] for _ in range(6)] == [200] * 6


def test_a_server_that_dies_in_the_middle_is_seen_to_have_died(proxy, servers):
    client = Client(proxy.port, body=STREAM)
    client.until(b"data: 1\n\n")
    for server in servers:
        server.dies = True
        server.go_on.release()
    status, _, is_whole = client.rest()
    assert (status, is_whole) == (200, False)
    assert sum(len(server.seen) for server in servers) == 1, "it is not tried again"


def test_a_client_that_leaves_ends_the_work(proxy, servers):
    client = Client(proxy.port, body=STREAM)
    client.until(b"data: 1\n\n")
    client.leave()
    wait_for("the server hears of it", lambda: any(server.gone.is_set() for server in servers))


def test_limits_and_headers(proxy, servers):
    large = Client(proxy.port, method="GET", headers=["content-length: 33554433"])
    large.until(b" 413 ")
    large.leave()
    assert ask(proxy, method="GET", path="/metrics")[0] == 403
    assert not any(server.seen for server in servers)

    mine = ["x-forwarded-for: 6.6.6.6", "x-request-id: mine-1", "authorization: Bearer k"]
    assert ask(proxy, headers=mine)[0] == 200
    (seen,) = [seen for server in servers for seen in server.seen]
    headers = {name.lower(): value for name, value in seen[2].items()}
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert (headers["x-request-id"], headers["authorization"]) == ("mine-1", "Bearer k")


def unit():
    return (DEPLOY / "systemd/hadal.service").read_text()


def test_systemd_accepts_its_unit_and_finds_little_exposed(tmp_path):
    analyze = program("systemd-analyze")
    # The program need not be installed to be checked.
    stand_in = tmp_path / "hadal"
    stand_in.write_text("#!/bin/sh\n")
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    text = unit()
    assert "/usr/local/bin/hadal" in text
    file = tmp_path / "hadal.service"
    file.write_text(text.replace("/usr/local/bin/hadal", str(stand_in)))
    verify = subprocess.run([analyze, "verify", "--man=no", file], capture_output=True, text=True)
    about_ours = [line for line in verify.stderr.splitlines() if "hadal" in line]
    assert (verify.returncode, about_ours) == (0, []), verify.stderr
    # From 0 to 100; most services of a distribution have above 90.
    subprocess.run([analyze, "security", "--offline=true", "--threshold=15", file], check=True)


def test_systemd_waits_for_the_drain():
    text = unit()
    flag = lambda name: int(re.search(rf"--{name} (\d+)", text)[1])  # noqa: E731
    stop = int(re.search(r"TimeoutStopSec=(\d+)", text)[1])
    assert stop >= flag("drain-delay") + flag("drain-timeout") + 10


def test_the_image_is_built_of_what_is_there():
    root = DEPLOY.parent
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    toolchain = re.search(r'channel = "([\d.]+)"', (root / "rust-toolchain.toml").read_text())[1]
    assert f"FROM rust:{toolchain}-slim-bookworm AS build" in dockerfile
    sent = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    missing = [path for path in sent if not (root / path).exists()]
    assert missing == []
    # cargo needs every member of the workspace, and files that are compiled in.
    assert {"Cargo.lock", "Cargo.toml", "crates", "xtask", "rust-toolchain.toml"} <= set(sent)
