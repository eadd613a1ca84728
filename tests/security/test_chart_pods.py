"""The pods of the Helm chart on a broker that asks who comes: the rights that the chart grants are enough, from the job
that makes the topics on, with the passwords and the certificate in the files where pods have them."""

import asyncio
import uuid
from collections.abc import Mapping
from pathlib import Path

from deploy.brokers.port import SUPER_USER
from deploy.brokers.secured import SecuredJvmBroker
from shared.log.admin import wait_for_broker
from shared.log.granting import Grant, grant
from shared.rights import Right
from shared.settings import MeshSettings
from tests.support.chart import RELEASE, Rendered
from tests.support.pods import quick_release, rehearse


def granted_by(chart: Rendered) -> list[Grant]:
    """What Strimzi's operator would grant for the chart's users, whose names begin with the release's there."""
    return [
        Grant(
            f"User:{user['metadata']['name'].removeprefix(f'{RELEASE}-')}",
            Right(
                acl["resource"]["type"],
                acl["resource"]["name"],
                {"literal": "literal", "prefix": "prefixed"}[acl["resource"]["patternType"]],
                frozenset(acl["operations"]),
            ),
        )
        for user in chart.of("KafkaUser")
        for acl in user["spec"]["authorization"]["acls"]
    ]


async def test_pods_work_with_the_rights_of_the_chart(secured_broker: SecuredJvmBroker, tmp_path: Path) -> None:
    namespace = f"t{uuid.uuid4().hex[:12]}."
    superior = MeshSettings(
        KAFKA_BOOTSTRAP_SERVERS=secured_broker.bootstrap, namespace=namespace, **secured_broker.access(SUPER_USER)
    )
    await wait_for_broker(superior, 30)
    await grant(superior, granted_by(quick_release("strimzi", secured_broker, namespace)))

    def secrets(principal: str) -> Mapping[str, str]:
        return {
            "/etc/chatmesh/kafka/password": secured_broker.passwords[principal],
            "/etc/chatmesh/kafka-ca/ca.crt": secured_broker.certificates.ca_file.read_text(),
        }

    sqlite = {"history.mongodb.secretName": "", "history.replicas": "1"}
    release = quick_release("external", secured_broker, namespace, **sqlite)
    await asyncio.to_thread(rehearse, release, tmp_path, secrets)
