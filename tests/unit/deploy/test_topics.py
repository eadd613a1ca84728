"""What the topics' tool says: differences by name, access lists as two programs take them."""

import json
import shlex
from collections.abc import Iterable
from dataclasses import replace

import pytest

from deploy.topics.__main__ import main
from deploy.topics.acls import OPERATORS, as_json, as_kafka_commands, grants
from deploy.topics.differences import compare
from shared.log.admin import TopicFound
from shared.log.granting import Grant
from shared.rights import Right, consumer_rights, in_namespace, mesh_rights, operator_rights, rights_of
from shared.settings import MeshSettings
from shared.topics import JOURNAL, Service

SETTINGS = MeshSettings(namespace="blue.", partitions=32, replication_factor=3, min_insync_replicas=2)
AS_DECLARED = TopicFound(32, 3, JOURNAL.broker_config(2), (3,) * 32)


def differences(found: TopicFound | None) -> list[str]:
    return compare(SETTINGS, JOURNAL, {} if found is None else {"blue.responses.journal": found})


def test_a_topic_as_declared_differs_in_nothing_whatever_else_is_set_there() -> None:
    assert differences(AS_DECLARED) == []
    assert differences(replace(AS_DECLARED, config={**AS_DECLARED.config, "segment.ms": "1"})) == []
    assert differences(replace(AS_DECLARED, in_sync=(3, 2) * 16)) == []  # one broker is away


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (None, "blue.responses.journal: missing"),
        (replace(AS_DECLARED, partitions=8), "blue.responses.journal: partitions is 8, not 32"),
        (replace(AS_DECLARED, replicas=1), "blue.responses.journal: replication factor is 1, not 3"),
        (
            replace(AS_DECLARED, in_sync=(1, 2) * 16),
            "blue.responses.journal: 16 of 32 partitions take no records now: fewer than 2 copies are in sync",
        ),
        (
            replace(AS_DECLARED, config={**AS_DECLARED.config, "retention.ms": "60000"}),
            "blue.responses.journal: retention.ms is 60000, not 86400000",
        ),
        (
            replace(AS_DECLARED, config={k: v for k, v in AS_DECLARED.config.items() if k != "cleanup.policy"}),
            "blue.responses.journal: cleanup.policy is not set, not delete",
        ),
    ],
)
def test_what_differs_is_named_with_both_values(found: TopicFound | None, told: str) -> None:
    assert differences(found) == [told]


def test_every_service_has_a_principal_of_its_name_and_operators_one() -> None:
    found = grants("blue.", consumers=["billing"])
    assert {grant.principal for grant in found} == {f"User:{n}" for n in [*map(str, Service), OPERATORS, "billing"]}
    for principal, rights in (
        *((service.value, rights_of(service)) for service in Service),
        (OPERATORS, operator_rights()),
        ("billing", consumer_rights()),
    ):
        assert {g.right for g in found if g.principal == f"User:{principal}"} == set(in_namespace("blue.", rights))


def test_one_principal_stands_for_all_four() -> None:
    found = grants("", names=dict.fromkeys(Service, "mesh"))
    assert {grant.right for grant in found if grant.principal == "User:mesh"} == set(mesh_rights())
    assert {grant.principal for grant in found} == {"User:mesh", f"User:{OPERATORS}"}


@pytest.mark.parametrize(
    ("names", "consumers", "name", "expected"),
    [
        (dict.fromkeys(Service, "admin"), [], "admin", [mesh_rights(), operator_rights()]),
        ({}, ["gateway"], "gateway", [rights_of(Service.GATEWAY), consumer_rights()]),
        ({}, ["admin"], "admin", [operator_rights(), consumer_rights()]),
        ({"history": "inference"}, [], "inference", [rights_of(Service.HISTORY), rights_of(Service.INFERENCE)]),
    ],
)
def test_who_is_named_twice_gets_the_rights_of_both(
    names: dict[str, str], consumers: list[str], name: str, expected: list[tuple[Right, ...]]
) -> None:
    theirs = [
        grant.right for grant in grants("", names=names, consumers=consumers) if grant.principal == f"User:{name}"
    ]
    assert len({(right.resource, right.name, right.pattern) for right in theirs}) == len(theirs)
    wanted = single(right for rights in expected for right in rights)
    missing, more = wanted - single(theirs), single(theirs) - wanted
    assert {operation for *_, operation in missing} <= {"Describe"}  # which Read and Write imply
    assert more == set()


@pytest.mark.parametrize(
    ("options", "principals"),
    [
        ([], {"User:gateway", "User:moderation", "User:inference", "User:history", "User:admin"}),
        (
            ["--principal", "gateway=CN=gateway,O=Acme", "--principal", "admin=User:blue-admin"],
            {"User:CN=gateway,O=Acme", "User:moderation", "User:inference", "User:history", "User:blue-admin"},
        ),
        (["--one-principal", "mesh", "--principal", "admin=ops"], {"User:mesh", "User:ops"}),
        (
            ["--one-principal", "mesh", "--principal", "inference=gpu", "--consumer", "User:billing"],
            {"User:mesh", "User:gpu", "User:admin", "User:billing"},
        ),
    ],
)
def test_principals_may_have_names_of_the_operators_own(
    options: list[str], principals: set[str], quiet: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["acls", "--format", "json", *options]) == 0
    assert {entry["principal"] for entry in json.loads(capsys.readouterr().out)} == principals


@pytest.mark.parametrize("option", [["--principal", "gatway=x"], ["--principal", "gateway="], ["--consumer", ""]])
def test_a_principal_of_nobody_is_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["acls", *option])
    assert ended.value.code == 2
    assert f"error: argument {option[0]}: " in capsys.readouterr().err


def single(rights: Iterable[Right]) -> set[tuple[str, str, str, str]]:
    return {(right.resource, right.name, right.pattern, op) for right in rights for op in right.operations}


def test_a_line_for_kafkas_script_says_all_of_a_right() -> None:
    rights = [
        Right("topic", "a.topic", "literal", frozenset({"Write", "Read"})),
        Right("group", "consumers.", "prefixed", frozenset({"Read"})),
    ]
    first, second = as_kafka_commands([Grant("User:me; rm", r) for r in rights], "kafka:9093").splitlines()
    start = "kafka-acls.sh --bootstrap-server kafka:9093 --command-config admin.properties --add --force"
    assert shlex.split(first) == [
        *start.split(),
        *("--allow-principal", "User:me; rm", "--operation", "Read", "--operation", "Write", "--topic", "a.topic"),
    ]
    assert shlex.split(second)[-4:] == ["--group", "consumers.", "--resource-pattern-type", "prefixed"]


def test_json_has_the_same_as_the_lines() -> None:
    found = grants("blue.")
    listed = json.loads(as_json(found, "unused"))
    assert [entry["name"] for entry in listed] == [grant.right.name for grant in found]
    assert listed[0].keys() == {"principal", "resource", "name", "pattern", "operations"}


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging that is set up would outlast a test."""
    monkeypatch.setattr("deploy.topics.__main__.setup_logging", lambda _: None)


def test_a_broker_that_is_not_there_is_one_line(
    quiet: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setenv("CHATMESH_START_TIMEOUT_S", "0.1")
    assert main(["check"]) == 1
    assert capsys.readouterr().err == "error: no Kafka broker answers at 127.0.0.1:1 (KAFKA_BOOTSTRAP_SERVERS)\n"
