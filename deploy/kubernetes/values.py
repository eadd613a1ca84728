"""The schema of the chart's values: what a typo would otherwise leave out in silence is refused by name. Pure.

It is made from values.yaml, whose defaults give the types, from the rules below, and from the services' settings: under
`settings` stands any variable of a service that the chart does not set itself.
"""

from pathlib import Path
from typing import Any

import yaml

from services.gateway.settings import GatewaySettings
from services.history.settings import HistorySettings
from services.inference.settings import InferenceSettings
from services.moderation.settings import ModerationSettings
from shared.settings import KafkaSettings, MeshSettings, variable_of

VALUES = Path(__file__).resolve().parent.parent / "helm/chatmesh/values.yaml"
SETTINGS: dict[str, type[MeshSettings]] = {
    "gateway": GatewaySettings,
    "moderation": ModerationSettings,
    "inference": InferenceSettings,
    "history": HistorySettings,
}
FIELDS: dict[str, tuple[type[MeshSettings], str]] = {
    "kafka.namespace": (MeshSettings, "namespace"),
    "kafka.partitions": (MeshSettings, "partitions"),
    "kafka.replicationFactor": (MeshSettings, "replication_factor"),
    "kafka.minInsyncReplicas": (MeshSettings, "min_insync_replicas"),
    "kafka.external.securityProtocol": (MeshSettings, "security_protocol"),
    "kafka.external.saslMechanism": (MeshSettings, "sasl_mechanism"),
    "kafka.external.checkHostname": (MeshSettings, "ssl_check_hostname"),
    "startTimeoutS": (MeshSettings, "start_timeout_s"),
    "tracing.content": (MeshSettings, "trace_content"),
    "model.name": (InferenceSettings, "model"),
    "inference.slots": (InferenceSettings, "slots"),
    "inference.gpu.count": (InferenceSettings, "tensor_parallel"),
    **{f"{service}.shutdownS": (cls, "shutdown_s") for service, cls in SETTINGS.items()},
}
"""The values that a service gets as one of its settings: what it would refuse at its start, the schema refuses."""

_SET_BY_CHART = frozenset(
    {
        *(variable_of(cls.model_fields[name], name) for cls, name in FIELDS.values()),
        # What stands for no value, or for the name of a file.
        "CHATMESH_SERVICE_ID",
        "CHATMESH_LOG_FORMAT",
        "CHATMESH_MANAGEMENT_PORT",
        "CHATMESH_MANAGEMENT_HOST",
        "CHATMESH_HOST",
        "PORT",
        "CHATMESH_API_KEYS",
        "CHATMESH_RATE_LIMITS",
        "CHATMESH_POLICY",
        "CHATMESH_DATA_DIR",
        "MONGODB_URL",
        "CHATMESH_DEVICE",
        "CHATMESH_CACHE_DIR",
    }
)
_TUNABLE = frozenset(
    {
        "CHATMESH_FETCH_MAX_WAIT_MS",
        "CHATMESH_REQUEST_TIMEOUT_MS",
        "CHATMESH_SESSION_TIMEOUT_MS",
        "CHATMESH_HEARTBEAT_INTERVAL_MS",
    }
)
"""Of KafkaSettings; the rest of it stands under `kafka`."""

_STRINGS = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
_OBJECTS = {"type": "array", "items": {"type": "object"}}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_PORTS = {"type": "array", "items": _PORT}
_ADDRESS = (
    r"\s*([^\s,:\[\]]+|\[[0-9A-Fa-f:.]+\])"
    r":(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})\s*"
)
"""What `shared.settings.addresses_of` takes, where empty ones do not count; a test compares."""
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_OUR_LABELS = (
    r"^(app\.kubernetes\.io/(name|instance|component|part-of|version|managed-by)|helm\.sh/chart|strimzi\.io/.*)$"
)
_LABELS = {**_TEXTS, "propertyNames": {"not": {"pattern": _OUR_LABELS}}}
"""Selectors go by ours, and a key that stands twice is no YAML."""
_OUR_ATTRIBUTES = ["k8s.namespace.name", "k8s.pod.name"]
_ATTRIBUTES = {**_TEXTS, "propertyNames": {"pattern": "^[A-Za-z0-9_.-]+$", "not": {"enum": _OUR_ATTRIBUTES}}}
_ANY = {"type": "object"}
_AT_LEAST_ONE = {"type": "integer", "minimum": 1}
_PRINCIPAL = "^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
_BOUNDS = ("enum", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")

RULES: dict[str, dict[str, Any]] = {
    "images.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "images.pullSecrets": _STRINGS,
    "commonLabels": _LABELS,
    "listenAddress": {"enum": ["0.0.0.0", "::"]},
    "kafka.mode": {"enum": ["external", "strimzi"]},
    "kafka.external.bootstrapServers": {
        "type": "string",
        "pattern": rf"^((\s*,)*{_ADDRESS}(,({_ADDRESS}|\s*))*)?$",
    },
    # Brokers' hosts and labels hold it with a suffix of up to 17 characters, in 63 altogether.
    "kafka.strimzi.cluster": {"type": "string", "pattern": "^([a-z]([a-z0-9-]{0,38}[a-z0-9])?)?$"},
    "kafka.strimzi.nodes": _AT_LEAST_ONE,
    "kafka.strimzi.spread": {"enum": ["DoNotSchedule", "ScheduleAnyway"]},
    "kafka.strimzi.config": _ANY,
    "kafka.strimzi.resources": _ANY,
    "kafka.strimzi.consumers": {**_STRINGS, "items": {"type": "string", "pattern": _PRINCIPAL}},
    "model.path": {"type": "string", "pattern": "^/"},
    "gateway.rateLimits": {
        "type": "object",
        "properties": {"tiers": _ANY, "tenants": _ANY},
        "additionalProperties": False,
    },
    "gateway.service.port": _PORT,
    "gateway.service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "gateway.service.annotations": _TEXTS,
    "inference.gpu.resource": {"type": "string", "minLength": 1},
    "inference.gpu.nodeSelector": _TEXTS,
    "inference.gpu.tolerations": _OBJECTS,
    "inference.autoscaling.utilization": {"type": "number", "exclusiveMinimum": 0, "maximum": 2},
    "tools.resources": _ANY,
    "serviceAccount.annotations": _TEXTS,
    "ingress.annotations": _TEXTS,
    "ingress.hosts": _STRINGS,
    "ingress.tls": _OBJECTS,
    "httpRoute.parentRefs": _OBJECTS,
    "httpRoute.hostnames": _STRINGS,
    "networkPolicy.clients": _OBJECTS,
    "networkPolicy.scrapers": _OBJECTS,
    "networkPolicy.dns": _OBJECTS,
    "networkPolicy.keda": _OBJECTS,
    **{f"networkPolicy.{peer}.to": _OBJECTS for peer in ("kafka", "mongodb", "otlp")},
    **{f"networkPolicy.{peer}.ports": _PORTS for peer in ("kafka", "mongodb", "otlp")},
    **{f"networkPolicy.extraEgress.{service}": _OBJECTS for service in SETTINGS},
    "tracing.endpoint": {"type": "string", "pattern": "^(https?://.+)?$"},
    "tracing.resourceAttributes": _ATTRIBUTES,
    "tracing.ratio": {"type": "number", "minimum": 0, "maximum": 1},
    "monitoring.podMonitor.labels": _TEXTS,
    "monitoring.rules.labels": _TEXTS,
    "monitoring.dashboard.labels": _TEXTS,
}
"""By path; what is not named here has the type of its default, and objects hold what values.yaml names."""

_IMAGE = {
    "type": "object",
    "properties": {
        "repository": {"type": "string"},
        "tag": {"type": "string"},
        "digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    },
    "additionalProperties": False,
}
OF_EACH_SERVICE: dict[str, dict[str, Any]] = {
    "image": _IMAGE,
    "extraEnv": _OBJECTS,
    "resources": _ANY,
    # What a service with no replica does shows in no metric, so nothing would ever start one.
    **{f"autoscaling.{bound}": _AT_LEAST_ONE for bound in ("minReplicas", "maxReplicas")},
    "podDisruptionBudget": {
        "type": "object",
        "properties": {name: {"type": ["integer", "string"]} for name in ("maxUnavailable", "minAvailable")},
        "additionalProperties": False,
        "maxProperties": 1,
    },
    "strategy.maxSurge": {"type": ["integer", "string"]},
    "strategy.maxUnavailable": {"type": ["integer", "string"]},
    "nodeSelector": _TEXTS,
    "tolerations": _OBJECTS,
    "affinity": _ANY,
    "podAnnotations": _TEXTS,
    "podLabels": _LABELS,
    "extraVolumes": _OBJECTS,
    "extraVolumeMounts": _OBJECTS,
}


def values_schema() -> dict[str, Any]:
    """values.schema.json."""
    schema = _schema_of(yaml.safe_load(VALUES.read_text()), "", _rules())
    schema["properties"]["global"] = _ANY  # Helm hands it down from a chart that this one is a part of
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the chart chatmesh", **schema}


def _rules() -> dict[str, dict[str, Any]]:
    each = {f"{service}.{path}": rule for service in SETTINGS for path, rule in OF_EACH_SERVICE.items()}
    return {
        "tools.image": _IMAGE,
        **RULES,
        **each,
        **{f"{service}.settings": settings_schema(cls) for service, cls in SETTINGS.items()},
    }


def _schema_of(default: Any, path: str, rules: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if path in rules:
        return rules[path]
    if isinstance(default, dict):
        properties = {key: _schema_of(value, f"{path}.{key}".lstrip("."), rules) for key, value in default.items()}
        # Helm drops what a values file sets to null: templates would find nothing where the defaults have something.
        return {
            "type": "object",
            "properties": properties,
            "required": sorted(properties),
            "additionalProperties": False,
        }
    return {"type": _type_of(default, path), **_bounds_of(default, path)}


def _type_of(default: Any, path: str) -> str:
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string")):
        if isinstance(default, kind):
            return name
    raise TypeError(f"{path} needs a rule: its default {default!r} does not tell what it may be")


def _bounds_of(default: Any, path: str) -> dict[str, Any]:
    if path in FIELDS:
        cls, name = FIELDS[path]
        field = cls.model_json_schema(by_alias=False)["properties"][name]
        # An optional one is of its type or null.
        return {key: of[key] for of in field.get("anyOf", [field]) for key in _BOUNDS if key in of}
    return {"minimum": 0} if isinstance(default, int | float) and not isinstance(default, bool) else {}


def settings_schema(cls: type[MeshSettings]) -> dict[str, Any]:
    """Which variables may stand under `settings`, within which bounds: those that the chart does not set."""
    known = cls.model_json_schema(by_alias=False)["properties"]
    properties = {
        variable: {key: value for key, value in known[name].items() if key not in ("default", "title")}
        for name, field in sorted(cls.model_fields.items())
        if (variable := variable_of(field, name)) not in _SET_BY_CHART
        and (name not in KafkaSettings.model_fields or variable in _TUNABLE)
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}
