"""What the chart holds that stands elsewhere: the registry's topics and rights, the alerts, the dashboard. Pure.

Helm reads nothing outside of the chart's folder, so it has copies; a test compares them.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.kubernetes.values import values_schema
from shared.rights import Right, consumer_rights, operator_rights, rights_of
from shared.topics import CONTROL_GROUPS, RECORDERS, REGISTRY, Group, Service, Topic

_DEPLOY = Path(__file__).resolve().parent.parent
CHART = _DEPLOY / "helm" / "chatmesh"
_MONITORING = _DEPLOY / "monitoring"
_HEADER = "# Written by `python -m deploy.kubernetes` from the topic registry.\n"
_RESOURCES = {"topic": "topic", "group": "group", "cluster": "cluster", "transactional_id": "transactionalId"}
_PATTERNS = {"literal": "literal", "prefixed": "prefix"}


def chart_files() -> dict[str, str]:
    """Every file that is made, by its path in the chart."""
    copies = {
        **{f"files/rules/{path.name}": path for path in (_MONITORING / "prometheus/rules").glob("*.yaml")},
        **{f"files/dashboards/{path.name}": path for path in (_MONITORING / "grafana/dashboards").glob("*.json")},
    }
    return {
        "files/kafka.yaml": _HEADER + yaml.safe_dump(kafka_resources(), sort_keys=False, width=120),
        "values.schema.json": json.dumps(values_schema(), indent=2) + "\n",
        **{name: path.read_text() for name, path in copies.items()},
    }


def kafka_resources() -> dict[str, Any]:
    """Topics, groups and rights for templates, without the mesh's namespace.

    `partitions` 0: as many as the response topics have. `history_groups`: whose lag tells how much history has to do.
    `users`: the mesh's principals; `consumer`: what one outside of it may.
    """
    return {
        "topics": [_topic(topic) for topic in REGISTRY.values()],
        "history_groups": [{"name": group.name, "topic": group.topic.name} for group in _scaling_history()],
        "users": {
            **{service.value: acls(rights_of(service)) for service in Service},
            "admin": acls(operator_rights()),
        },
        "consumer": acls(consumer_rights()),
    }


def _scaling_history() -> Iterator[Group]:
    """Those that commit as they go. The usage's commits hold its totals and come at intervals."""
    yield RECORDERS
    yield from (group for group in CONTROL_GROUPS.values() if group.service is Service.HISTORY)


def _topic(topic: Topic) -> dict[str, Any]:
    config = topic.broker_config(min_insync_replicas=1)
    del config["min.insync.replicas"]
    return {"name": topic.name, "partitions": topic.partitions, "config": config}


def acls(rights: Iterable[Right]) -> list[dict[str, Any]]:
    """Rights as Strimzi's KafkaUser writes them."""
    return [
        {
            "resource": {
                "type": _RESOURCES[right.resource],
                "name": right.name,
                "patternType": _PATTERNS[right.pattern],
            },
            "operations": sorted(right.operations),
        }
        for right in rights
    ]
