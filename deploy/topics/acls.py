"""Which principal gets which rights, and how that is written. Pure.

Principals are named after the services, unless told otherwise; `admin` is the operators'.
"""

import json
import shlex
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from shared.log.granting import Grant
from shared.rights import Right, consumer_rights, in_namespace, joined, operator_rights, rights_of
from shared.topics import Service

OPERATORS = "admin"
OF_THE_MESH = (*(service.value for service in Service), OPERATORS)
"""Whom a mesh needs to have principals."""
OWN_NAMES: Mapping[str, str] = {}


def grants(namespace: str, *, names: Mapping[str, str] = OWN_NAMES, consumers: Collection[str] = ()) -> list[Grant]:
    """All that a mesh in `namespace` needs. `names`: under which name who of `OF_THE_MESH` comes, where it is not its
    own; `consumers`: those outside that may read public topics. Who is named twice gets the rights of both."""
    by_name: defaultdict[str, list[Right]] = defaultdict(list)
    for service in Service:
        by_name[names.get(service, service)] += rights_of(service)
    by_name[names.get(OPERATORS, OPERATORS)] += operator_rights()
    for name in consumers:
        by_name[name] += consumer_rights()
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
