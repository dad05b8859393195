"""The numbers of servers as Prometheus sees them, and the dashboard and rules of deploy/ that are made of them.

    apt-get install prometheus
    pytest e2e/test_metrics.py
"""

import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request

import pytest
import yaml

from conftest import Server
from deploy_proxies import DEPLOY, free_ports, program
from exchange import key
from wire import Raw, ask, chat, number, numbers, post, until

DASHBOARD = json.loads((DEPLOY / "grafana/hadal.json").read_text())
GROUPS = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
# A parameter for each query, so that every one that gives nothing is told of.
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['id']}. {panel['title']}, {target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]

# Names that gateways, autoscalers and other people's dashboards read.
THEIRS = {
    "vllm:" + name
    for name in """
    num_requests_running num_requests_waiting kv_cache_usage_perc prefix_cache_queries_total prefix_cache_hits_total
    prompt_tokens_total generation_tokens_total num_preemptions_total time_to_first_token_seconds
    inter_token_latency_seconds request_time_per_output_token_seconds e2e_request_latency_seconds
    request_queue_time_seconds request_prefill_time_seconds request_decode_time_seconds request_prompt_tokens
    request_generation_tokens request_success_total spec_decode_num_drafts_total spec_decode_num_draft_tokens_total
    spec_decode_num_accepted_tokens_total spec_decode_num_accepted_tokens_per_pos_total cache_config_info
    admission_rejections_total
    """.split()
}
# Ours that say what nobody else's do.
OURS = {
    "hadal_" + name
    for name in """
    expert_tokens_total expert_balancedness expert_cache_hits_total expert_cache_misses_total
    expert_cache_bytes_read_total kv_disk_hits_total kv_disk_bytes kv_disk_evictions_total spec_speedup_ratio batch_size
    model_version_state build_info
    """.split()
}
# Labels that those who read a name rely on.
LABELS = {
    "vllm:request_success_total": "finished_reason",
    "vllm:spec_decode_num_accepted_tokens_per_pos_total": "position",
    "vllm:cache_config_info": "block_size num_gpu_blocks",
    "vllm:admission_rejections_total": "reason",
    "hadal_expert_tokens_total": "layer expert",
    "hadal_expert_balancedness": "layer",
    "hadal_model_version_state": "version state",
}

# A prompt of more than 512 tokens, which is long enough for the disk.
LONG = "deep " * 400
SECRET = "abc"
WATCH = "def"


class Prometheus:
    """A running Prometheus with the files of deploy/, in which only addresses and times are replaced."""

    def __init__(self, folder, servers, gateway):
        (self.port,) = free_ports(1)
        text = (DEPLOY / "prometheus/prometheus.yml").read_text()
        replacements = {
            "127.0.0.1:8001": servers[0],
            "127.0.0.1:8002": servers[1],
            "127.0.0.1:8000": gateway,
            "/etc/prometheus/hadal.key": str(folder / "hadal.key"),
            "scrape_interval: 15s": "scrape_interval: 300ms",
            "scrape_timeout: 10s": "scrape_timeout: 300ms",
            "evaluation_interval: 15s": "evaluation_interval: 300ms",
        }
        for old, new in replacements.items():
            assert old in text, f"prometheus.yml has no {old}; the test has to follow the file"
            text = text.replace(old, new)
        self.config = folder / "prometheus.yml"
        self.config.write_text(text)
        (folder / "hadal.key").write_text(WATCH)
        (folder / "rules.yml").write_text((DEPLOY / "prometheus/rules.yml").read_text())
        self.output = folder / "output"
        command = [program("prometheus"), f"--config.file={self.config}", f"--storage.tsdb.path={folder / 'data'}"]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, f"--web.listen-address=127.0.0.1:{self.port}"], stdout=output, stderr=subprocess.STDOUT
            )

    def get(self, path, **parameters):
        """The data of an answer of its interface; None while it does not answer."""
        assert self.process.poll() is None, self.output.read_text(errors="replace")
        address = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return None
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        except urllib.error.URLError:
            return None

    def query(self, expression):
        """The value of each series that is a number."""
        found = self.get("query", query=expression)["result"]
        return {json.dumps(one["metric"]): float(one["value"][1]) for one in found if one["value"][1] != "NaN"}

    def targets(self):
        return (self.get("targets") or {"activeTargets": []})["activeTargets"]

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def fleet(hadal, models, tmp_path_factory):
    """A server with all that needs no key, one with keys and experts read from disk, and a gateway before the first."""
    folder = tmp_path_factory.mktemp("fleet")
    keys = folder / "keys.toml"
    keys.write_text(key("ann", SECRET, "user", rate=3) + key("watch", WATCH, "metrics"))
    common = ["--model", models("v3_1"), "--seed", "1", "--expert-metrics"]
    running = []
    try:
        running.append(Server(hadal, *common, "--mtp", "on", "--kv-disk", folder / "disk"))
        running.append(Server(hadal, *common, "--mtp", "auto", "--expert-memory", "0.01", "--api-key-file", keys))
        running.append(Server(hadal, "--router", running[0].url))
        yield running
    finally:
        codes = [one.stop() for one in reversed(running)]
    assert codes == [0, 0, 0], "\n".join(line for one in running for line in one.log[-20:])


def traffic(open_one, with_keys, gateway):
    """Requests of all kinds."""

    def good(answer):
        assert answer.status == 200, answer

    # Answers, whole and streamed, of all interfaces. A prompt that is known; one that is long.
    for _ in range(2):
        good(ask(open_one.url, "/v1/chat/completions", chat(LONG, max_tokens=20, ignore_eos=True)))
    good(ask(open_one.url, "/v1/completions", {"prompt": "x", "max_tokens": 8}))
    good(ask(open_one.url, "/v1/messages", {**chat(), "model": "tiny"}))
    good(ask(gateway.url, "/v1/chat/completions", chat(stream=True)))
    # One that was left, through the gateway.
    body = json.dumps(chat(max_tokens=1500, ignore_eos=True, stream=True)).encode()
    with Raw(gateway.url) as client:
        client.send(post("/v1/chat/completions", body)).rest(end=b"data: ")
    # Errors.
    assert ask(open_one.url, "/v1/chat/completions", b"{").status == 400
    assert ask(open_one.url, "/v1/chat/completions", chat(model="huge")).status == 404
    # Enough steps of one answer to know what proposals gain, then requests above the rate of their key.
    mine = {"authorization": f"Bearer {SECRET}"}
    good(ask(with_keys.url, "/v1/chat/completions", chat(max_tokens=60, ignore_eos=True), **mine))
    statuses = [ask(with_keys.url, "/v1/chat/completions", chat(), **mine).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    until("the client's leaving was noticed", lambda: number(open_one.url, "hadal_cancelled_requests_total") == 1)
    until("the long prompt is on disk", lambda: number(open_one.url, "hadal_kv_disk_writes_total") > 0)


@pytest.fixture(scope="module")
def prometheus(fleet, tmp_path_factory):
    """A Prometheus that has seen the fleet before its traffic, and after it."""
    addresses = [server.url.removeprefix("http://") for server in fleet]
    running = Prometheus(tmp_path_factory.mktemp("prometheus"), addresses[:2], addresses[2])
    try:

        def all_up():
            found = running.targets()
            return len(found) == 3 and all(target["health"] == "up" for target in found)

        until("Prometheus sees all", all_up)
        traffic(*fleet)
        for name in ["hadal_cancelled_requests_total", 'hadal_gateway_cut_answers_total{reason="client"}']:
            until(f"Prometheus has {name}", lambda name=name: 1 in running.query(name).values())
        # Rates need two looks at what is new.
        seen = 'min(count_over_time({__name__=~"hadal_gateway_cut_answers_total|hadal_http_requests_total"}[1m]))'
        until("Prometheus has looked again", lambda: min(running.query(seen).values()) >= 2)
        until("rules have run", lambda: all(r["health"] == "ok" for r in rules_of(running)))
        yield running
    finally:
        running.close()


def rules_of(prometheus):
    return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]


def promtool(*arguments, text=None, cwd=None):
    return subprocess.run([program("promtool"), *map(str, arguments)], input=text, capture_output=True, cwd=cwd)


def complaints(text):
    """What promtool has to say about numbers, by name."""
    done = promtool("check", "metrics", text=text)
    lines = done.stderr.decode().strip().splitlines()
    assert (done.returncode == 0) == (not lines) and done.returncode in (0, 3), (done.returncode, lines)
    return dict(line.split(" ", 1) for line in lines)


def text_of(server):
    return ask(server.url, "/metrics", authorization=f"Bearer {WATCH}").body


# The numbers themselves.


def test_promtool_likes_our_numbers(fleet, prometheus, serve):
    assert complaints(text_of(serve("--metrics-compat", "none"))) == {}
    assert complaints(text_of(fleet[2])) == {}
    # A colon is for names of rules, as it is not for vLLM. There is nothing else to say.
    for server in fleet[:2]:
        assert complaints(text_of(server)) == dict.fromkeys(THEIRS, "metric names should not contain ':'")


def test_other_names_can_be_left_out(serve):
    server = serve("--metrics-compat", "none")
    assert not [name for name in numbers(server.url) if not re.match("hadal_|process_", name)]


def test_names_that_others_rely_on(fleet, prometheus):
    """Names and their labels, over both servers: one measures what proposals gain, the other has a cache on disk."""
    text = "\n".join(text_of(server).decode() for server in fleet[:2])
    series = [line for line in text.splitlines() if line and not line.startswith("#")]
    names = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    assert THEIRS | OURS <= names, (THEIRS | OURS) - names
    # vLLM's names are those and no more, and stand in each server that has the same number under ours.
    assert {name for name in names if name.startswith("vllm:")} == THEIRS
    for name, labels in LABELS.items():
        of_name = [line for line in series if line.startswith(name + "{")]
        assert of_name and all(f'{label}="' in line for label in labels.split() for line in of_name), name


def test_numbers_of_the_traffic(fleet, prometheus):
    """What was asked for is what was counted."""
    url = fleet[0].url
    assert number(url, "hadal_request_success_total", finished_reason="abort") == 1
    assert number(url, "hadal_request_success_total", finished_reason="length") >= 2
    assert number(url, "hadal_http_requests_total", path="/v1/chat/completions", status="400") == 1
    assert number(url, "hadal_http_requests_total", path="/v1/chat/completions", status="404") == 1
    assert number(url, "hadal_prefix_cached_tokens_total") >= 512
    assert number(url, "hadal_kv_disk_writes_total") >= 8
    # Whether proposals of a random model are accepted is chance.
    assert number(url, "hadal_spec_proposed_tokens_total") > 0
    text = text_of(fleet[1]).decode()
    assert 'hadal_admission_rejections_total{reason="rate",model_name="tiny"} 1\n' in text


# Files.


def test_promtool_accepts_the_files(tmp_path):
    for name in ["prometheus.yml", "rules.yml"]:
        (tmp_path / name).write_text((DEPLOY / "prometheus" / name).read_text())
    config = tmp_path / "prometheus.yml"
    text = config.read_text()
    assert "/etc/prometheus/hadal.key" in text
    config.write_text(text.replace("/etc/prometheus/hadal.key", str(tmp_path / "hadal.key")))
    (tmp_path / "hadal.key").write_text(WATCH)
    for arguments in [("config", config), ("rules", tmp_path / "rules.yml")]:
        done = promtool("check", *arguments)
        assert done.returncode == 0, done.stderr.decode()


def test_each_alert_fires_when_it_should():
    tested = yaml.safe_load((DEPLOY / "prometheus/rules_test.yml").read_text())["tests"]
    assert [test["name"] for test in tested] == [rule["alert"] for rule in RULES if "alert" in rule]
    done = promtool("test", "rules", "rules_test.yml", cwd=DEPLOY / "prometheus")
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


def test_alerts_tell_what_they_are_about():
    for rule in RULES:
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("warning", "critical"), rule
            assert set(rule["annotations"]) == {"summary", "description"}, rule
            assert "$labels.instance" in json.dumps(rule) or "$labels.version" in json.dumps(rule), rule


def test_the_dashboard_is_well_formed():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    titles = [panel["title"] for panel in DASHBOARD["panels"]]
    assert len(set(titles)) == len(titles)
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "model", "instance"}
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert max(x for x, _ in cells) < 24 and not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources), panel["title"]
        assert panel["description"].endswith(".") and panel["targets"], panel["title"]


def test_every_number_of_ours_is_shown(fleet, prometheus):
    """The dashboard leaves nothing out that a server or a gateway tells."""
    text = "\n".join(text_of(server).decode() for server in fleet)
    names = set(re.findall(r"^# TYPE (hadal_\S+) ", text, re.MULTILINE))
    shown = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    missing = {name for name in names if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", shown)}
    assert not missing, missing


# Queries, asked of a Prometheus that has seen traffic.

# What may give nothing, and why.
EMPTY = {
    # A gateway with one server has nowhere else to send a request.
    "sum by (backend, reason) (rate(hadal_gateway_retries_total[$__rate_interval]))",
}


@pytest.fixture(scope="module")
def chosen(prometheus):
    """The values of the dashboard's variables if everything is chosen, from their own queries."""
    values = {}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            inner, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
            found = prometheus.query(f"count by ({label}) ({substituted(inner, values)})")
            values[variable["name"]] = "|".join(json.loads(one)[label] for one in found)
    assert (values["model"], len(values["instance"].split("|"))) == ("tiny", 2), values
    return values


def substituted(expression, values):
    values = {"__rate_interval": "1m", "__range": "1m", **values}
    return re.sub(r"\$(\w+)", lambda name: values[name[1]], expression)


@pytest.mark.parametrize("expression", QUERIES)
def test_a_query_of_the_dashboard_gives_numbers(prometheus, chosen, expression):
    found = prometheus.query(substituted(expression, chosen))
    assert bool(found) != (expression in EMPTY), found or "no data"


def test_another_model_is_not_shown(prometheus, chosen):
    """Every query but those of gateways, which know no model, is of the chosen one."""
    for panel in PANELS:
        for target in panel["targets"]:
            of_gateway = "hadal_gateway_" in target["expr"]
            others = prometheus.query(substituted(target["expr"], {**chosen, "model": "other"}))
            assert of_gateway or not others, (panel["title"], others)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_gives_numbers(prometheus, rule):
    """A rule's numbers, and for an alert whether each is beyond its bound."""
    expression = rule["expr"]
    if "alert" in rule:
        expression, comparisons = re.subn(r" (==|>|<) ", r" \1 bool ", expression)
        assert comparisons == 1, expression
    found = prometheus.query(expression)
    assert found, "no data"
    if "alert" in rule:
        assert set(found.values()) == {0}, found


def test_rules_run(prometheus):
    found = rules_of(prometheus)
    assert len(found) == len(RULES)
    assert [(rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in found if rule.get("state", "inactive") != "inactive"] == []
    assert [target["labels"]["job"] for target in prometheus.targets() if target["health"] != "up"] == []
