"""Which principal gets which rights, and how that is written. Pure.

Principals are named after the services; `admin` is the operators'.
"""

import json
import shlex
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

from shared.log.granting import Grant
from shared.rights import Right, consumer_rights, in_namespace, joined, mesh_rights, operator_rights, rights_of
from shared.topics import Service

OPERATORS = "admin"


def grants(namespace: str, *, one: str | None = None, consumers: Collection[str] = ()) -> list[Grant]:
    """All that a mesh in `namespace` needs. `one`: the principal under which all four services run; `consumers`: those
    outside that may read public topics. Who is named twice gets the rights of both."""
    services = {one: mesh_rights()} if one else {service.value: rights_of(service) for service in Service}
    by_name: defaultdict[str, list[Right]] = defaultdict(list)
    outsiders = [(OPERATORS, operator_rights()), *((name, consumer_rights()) for name in consumers)]
    for name, rights in [*services.items(), *outsiders]:
        by_name[name] += rights
    return [
        Grant(f"User:{name}", right)
        for name, rights in by_name.items()
        for right in in_namespace(namespace, joined(rights))
    ]


def as_kafka_commands(found: Sequence[Grant], bootstrap: str) -> str:
    """Lines for a shell on a machine with Apache Kafka's scripts; admin.properties says how a super user gets in."""
    return "\n".join(_kafka_command(grant.principal, grant.right, bootstrap) for grant in found)


def _kafka_command(principal: str, right: Right, bootstrap: str) -> str:
    operations = [part for operation in sorted(right.operations) for part in ("--operation", operation)]
    pattern = [] if right.pattern == "literal" else ["--resource-pattern-type", right.pattern]
    how = ["kafka-acls.sh", "--bootstrap-server", bootstrap, "--command-config", "admin.properties", "--add", "--force"]
    return shlex.join(
        [
            *how,
            "--allow-principal",
            principal,
            *operations,
            f"--{right.resource.replace('_', '-')}",
            right.name,
            *pattern,
        ]
    )


def as_json(found: Sequence[Grant], _: str) -> str:
    """A list of objects with the fields of a right, beside its principal."""
    return json.dumps(
        [
            {
                "principal": grant.principal,
                "resource": grant.right.resource,
                "name": grant.right.name,
                "pattern": grant.right.pattern,
                "operations": sorted(grant.right.operations),
            }
            for grant in found
        ],
        indent=2,
    )


FORMATS: dict[str, Callable[[Sequence[Grant], str], str]] = {"kafka": as_kafka_commands, "json": as_json}
