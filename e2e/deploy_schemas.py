"""The parts of two custom resources' schemas that our examples use, as JSON Schema.

A field that is not here is refused, so an example that begins to use one has to add it, from the source that is named.
Pod templates are checked as Kubernetes' own.
"""

# The fields of `Duration` there.
DURATION = {"type": "string", "pattern": r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$", "minLength": 2}
METADATA = {"type": "object"}


def strict(properties, required=()):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def resource(spec):
    text = {"type": "string"}
    return strict({"apiVersion": text, "kind": text, "metadata": METADATA, "spec": spec}, ["metadata", "spec"])


# https://github.com/kubernetes-sigs/lws, config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml, version v1.
LEADER_WORKER_SET = resource(
    strict(
        {
            "replicas": {"type": "integer", "minimum": 0},
            "startupPolicy": {"enum": ["LeaderCreated", "LeaderReady"]},
            "rolloutStrategy": strict(
                {
                    "type": {"enum": ["RollingUpdate"]},
                    "rollingUpdateConfiguration": strict(
                        {
                            "maxSurge": {"type": ["integer", "string"]},
                            "maxUnavailable": {"type": ["integer", "string"]},
                            "partition": {"type": "integer"},
                        }
                    ),
                },
                ["type"],
            ),
            "leaderWorkerTemplate": strict(
                {
                    "size": {"type": "integer", "minimum": 1},
                    "restartPolicy": {
                        "enum": ["Default", "RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"]
                    },
                    "leaderTemplate": {"type": "object"},
                    "workerTemplate": {"type": "object"},
                },
                ["workerTemplate"],
            ),
        },
        ["leaderWorkerTemplate"],
    )
)

# https://github.com/prometheus-operator/prometheus-operator,
# example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml, version v1.
POD_MONITOR = resource(
    strict(
        {
            "selector": strict({"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}}),
            "podMetricsEndpoints": {
                "type": "array",
                "items": strict(
                    {
                        "port": {"type": "string"},
                        "path": {"type": "string"},
                        "interval": DURATION,
                        "scrapeTimeout": DURATION,
                        "authorization": strict(
                            {
                                "type": {"type": "string"},
                                "credentials": strict(
                                    {"name": {"type": "string"}, "key": {"type": "string"}}, ["key"]
                                ),
                            }
                        ),
                    }
                ),
            },
        },
        ["selector"],
    )
)

CUSTOM = {
    ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"): LEADER_WORKER_SET,
    ("monitoring.coreos.com/v1", "PodMonitor"): POD_MONITOR,
}
