"""Whom a change of a topic or a record breaks: each kind of change, made to a toy registry or to our own."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal

import msgspec
import pytest

from deploy.events.consumers import Consumer, declared, mistakes
from deploy.events.contract import Contract, ContractError, contract_of, current_contract, keep, last_release
from deploy.events.diff import EVERYBODY, UNDECLARED, Change, Kind, changes
from deploy.events.schemas import definitions
from deploy.events.verdict import AcceptedBreak, accepted_breaks, faults, verdict
from shared.records.base import Record, Value
from shared.topics import EVENTS, Partitioning, Topic, Visibility

LAST, THIS, NOBODY = Kind.READERS_OF_THE_LAST, Kind.READERS_OF_THIS, Kind.COMPATIBLE
BILLING = Consumer(name="billing", contact="them", reads={"orders": {"paid": ["cost.cents", "state"]}})
SERVICES = ("gateway", "history", "moderation")


class Cost(Value, frozen=True, kw_only=True):
    cents: int
    rate: float = 1.0


class Paid(Record, frozen=True, kw_only=True, tag="paid"):
    cost: Cost
    state: Literal["open", "done"]
    notes: list[str] = []
    labels: dict[str, int] = {}
    note: str | None = None


class Named(Value, frozen=True, kw_only=True):
    name: str


class Counted(Value, frozen=True, kw_only=True):
    count: int = 0


class Renamed(Value, frozen=True, kw_only=True):
    count: str = ""


class Void(Record, frozen=True, kw_only=True, tag="void"):
    why: str


class Lost(Record, frozen=True, kw_only=True, tag="lost"):
    why: str


ORDERS = replace(EVENTS, name="orders", types=Paid | Void)


def record(base: Any, **fields: Any) -> Any:
    """Like `base`, with these fields: (type,), (type, default), or None for a field that is not there."""
    kept = {field.name: field for field in msgspec.structs.fields(base)}
    made: list[Any] = []
    for name in [*kept, *(name for name in fields if name not in kept)]:
        if name in fields:
            if fields[name] is not None:
                made.append((name, *fields[name]))
        elif kept[name].required:
            made.append((name, kept[name].type))
        elif kept[name].default is not msgspec.NODEFAULT:
            made.append((name, kept[name].type, kept[name].default))
        else:
            made.append((name, kept[name].type, msgspec.field(default_factory=kept[name].default_factory)))
    options = {"tag": "paid", "bases": (Record,)} if issubclass(base, Record) else {"bases": (Value,)}
    return msgspec.defstruct(base.__name__, made, frozen=True, kw_only=True, **options)


def contract(*topics: Topic, schema_version: int = 1) -> Contract:
    return contract_of(topics, definitions(topics), "0.1.0", schema_version)


def told(*this: Topic, last: Topic = ORDERS) -> list[tuple[Kind, str, tuple[str, ...]]]:
    found = changes(contract(last), contract(*this), [BILLING])
    return [(change.kind, change.what.removeprefix("orders: "), change.broken) for change in found]


def paid(**fields: Any) -> Topic:
    return replace(ORDERS, types=record(Paid, **fields) | Void)


def cost(**fields: Any) -> Topic:
    return paid(cost=(record(Cost, **fields),))


ALL = (*SERVICES, "billing", UNDECLARED)
OTHERS = (*SERVICES, UNDECLARED)


@pytest.mark.parametrize(
    ("this", "expected"),
    [
        (paid(state=None), [(LAST, "paid.state is not there", ALL)]),
        (paid(notes=None), [(LAST, "paid.notes is not there", OTHERS)]),
        (cost(cents=None), [(LAST, "paid.cost.cents is not there", ALL)]),
        (paid(cost=None, price=(Cost,)), [
            (LAST, "paid.cost is not there (renamed to price?)", ALL),
            (THIS, "paid.price is not there (renamed to cost?)", SERVICES),
        ]),
        (cost(cents=(str,)), [
            (LAST, "paid.cost.cents may be string where integer is read", ALL),
            (THIS, "paid.cost.cents may be integer where string is read", SERVICES),
        ]),
        (cost(cents=(float,)), [(LAST, "paid.cost.cents may be number where integer is read", ALL)]),
        (cost(cents=(int, 0)), [(LAST, "paid.cost.cents may be absent", ALL)]),
        (cost(cents=(int | None,)), [(LAST, "paid.cost.cents may be null where integer is read", ALL)]),
        (cost(rate=(float,)), [(THIS, "paid.cost.rate may be absent", SERVICES)]),
        (cost(rate=(float, 2.0)), [
            (LAST, "paid.cost.rate means 2.0 where it is absent, read as 1.0", OTHERS),
            (THIS, "paid.cost.rate means 1.0 where it is absent, read as 2.0", SERVICES),
        ]),
        (paid(state=(Literal["open", "done", "lost"],)), [(LAST, "paid.state may be 'lost'", ALL)]),
        (paid(state=(Literal["open"],)), [(THIS, "paid.state may be 'done'", SERVICES)]),
        (paid(state=(str,)), [(LAST, "paid.state may be any string, not only 'done', 'open'", ALL)]),
        (paid(notes=(list[int], [])), [
            (LAST, "paid.notes[] may be integer where string is read", OTHERS),
            (THIS, "paid.notes[] may be string where integer is read", SERVICES),
        ]),
        (paid(labels=(dict[str, Any], {})), [(LAST, "paid.labels may hold values of any kind", OTHERS)]),
        (paid(labels=(Named,)), [
            (LAST, "paid.labels.name may be string where integer is read", OTHERS),
            (THIS, "paid.labels may be absent", SERVICES),
            (THIS, "paid.labels.name is not there", SERVICES),
        ]),
        (paid(labels=(Counted, msgspec.field(default_factory=Counted))), [
            (NOBODY, "paid.labels.count is new", ()),
        ]),
        (paid(labels=(Renamed, msgspec.field(default_factory=Renamed))), [
            (LAST, "paid.labels.count may be string where integer is read", OTHERS),
            (THIS, "paid.labels.count may be integer where string is read", SERVICES),
        ]),
        (paid(extra=(int,)), [(THIS, "paid.extra is not there", SERVICES)]),
        (paid(extra=(int, 0)), [(NOBODY, "paid.extra is new", ())]),
        (cost(tax=(int, 0)), [(NOBODY, "paid.cost.tax is new", ())]),
        (replace(ORDERS, types=Void), [
            (LAST, "records of type paid are not there", ALL),
            (THIS, "records of type paid cannot be read", SERVICES),
        ]),
        (replace(ORDERS, types=Paid | Void | Lost), [(NOBODY, "records of type lost are new", ())]),
        (replace(ORDERS, key="tenant"), [(LAST, "key was 'response id' and is 'tenant'", ALL)]),
        (replace(ORDERS, partitioning=Partitioning.KEY),
         [(LAST, "partitioning was 'from the response id' and is 'hash of the key'", ALL)]),
        (replace(ORDERS, partitions=1), [(LAST, "partitions was 0 and is 1", ALL)]),
        (replace(ORDERS, log_append_time=False), [(LAST, "log_append_time was True and is False", ALL)]),
        (replace(ORDERS, config={"cleanup.policy": "compact"}),
         [(LAST, "cleanup was 'delete' and is 'compact'", ALL)]),
        (replace(ORDERS, retention=timedelta(days=1)), [(LAST, "retention fell from 604,800 s to 86,400 s", ALL)]),
        (replace(ORDERS, retention=timedelta(days=8)), [(NOBODY, "retention rose from 604,800 s to 691,200 s", ())]),
        (replace(ORDERS, visibility=Visibility.INTERNAL),
         [(LAST, "it was public and is internal", ("billing", UNDECLARED))]),
        (replace(ORDERS, summary="other words", delivery="other words"), []),
    ],
)  # fmt: skip
def test_a_change_names_those_whom_it_breaks(this: Topic, expected: list[tuple[Kind, str, tuple[str, ...]]]) -> None:
    assert told(this) == expected


def test_a_field_that_may_be_absent_is_read_from_a_map_too() -> None:
    last, this = paid(labels=(dict[str, Any], {})), paid(labels=(Counted, msgspec.field(default_factory=Counted)))
    assert told(this, last=last) == [(THIS, "paid.labels.count may be anything where integer is read", SERVICES)]


def test_a_topic_that_goes_breaks_its_readers_and_one_that_comes_nobody() -> None:
    assert told(replace(ORDERS, name="bills")) == [
        (LAST, "the topic is not there", ALL),
        (NOBODY, "bills: the topic is new", ()),
    ]


def headers(*gone: str, required: tuple[str, ...] = (), **more: Any) -> Any:
    """Those of every record, but for some, and more."""
    common = current_contract().common.headers
    known = {name: schema for name, schema in common["properties"].items() if name not in gone}
    always = [name for name in common["required"] if name not in gone]
    return {**common, "properties": {**known, **more}, "required": [*always, *required]}


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"type_prefix": "mesh."}, [(LAST, "ce_type begins with 'mesh.', not 'chatmesh.'", EVERYBODY)]),
        ({"consumer_groups": "apps."},
         [(LAST, "groups of consumers begin with 'apps.', not 'consumers.'", ("billing", UNDECLARED))]),
        ({"headers": headers("ce_time")}, [(LAST, "the header ce_time is not there", EVERYBODY)]),
        ({"headers": headers("traceparent")}, [(LAST, "the header traceparent is not there", EVERYBODY)]),
        ({"headers": headers(ce_specversion={"type": "string", "const": "2.0"})}, [
            (LAST, "the header ce_specversion may be '2.0'", EVERYBODY),
            (THIS, "the header ce_specversion may be '1.0'", EVERYBODY),
        ]),
        ({"headers": headers(ce_tenant={"type": "string"})}, [(NOBODY, "the header ce_tenant is new", ())]),
        ({"headers": headers(ce_tenant={"type": "string"}, required=("ce_tenant",))},
         [(THIS, "the header ce_tenant is not there", EVERYBODY)]),
    ],
)  # fmt: skip
def test_a_change_of_what_every_topic_promises_is_seen(
    terms: Any, expected: list[tuple[Kind, str, tuple[str, ...]]]
) -> None:
    last = contract(ORDERS)
    this = msgspec.structs.replace(last, common=msgspec.structs.replace(last.common, **terms))
    found = changes(last, this, [BILLING])
    assert [(change.kind, change.what, change.broken) for change in found] == expected


def test_what_nobody_changed_is_no_change() -> None:
    assert told(ORDERS) == []
    assert changes(current_contract(), current_contract(), declared()) == []


# -- our own records ---------------------------------------------------------------------------------------------


def test_nothing_breaks_who_reads_what_the_last_release_promised() -> None:
    found = verdict()
    if found.faults:
        pytest.fail(found.told(), pytrace=False)


def test_removing_the_usage_of_finished_responses_names_the_consumers_that_read_it() -> None:
    last = last_release()
    this = msgspec.json.decode(msgspec.json.encode(last), type=Contract)
    del this.definitions["Completed"]["properties"]["usage"]
    this.definitions["Completed"]["required"].remove("usage")
    found = {change.what: change.broken for change in changes(last, this, declared())}
    broken = found["responses.events: completed.usage is not there"]
    assert {"gateway", "history", "moderation", "examples/consumers/python", "examples/consumers/node"} <= set(broken)
    assert "make moderation-report" not in broken


def test_consumers_declare_what_there_is() -> None:
    assert list(mistakes(declared(), last_release())) == []


@pytest.mark.parametrize(
    ("reads", "mistake"),
    [
        ({"responses.journal": {"tokens": ["ids"]}}, "responses.journal is no public topic"),
        ({"responses.events": {"gone": []}}, "responses.events has no records of type gone"),
        (
            {"responses.events": {"completed": ["usage.cents"]}},
            "completed in responses.events has no field usage.cents",
        ),
        ({"responses.events": {"accepted": ["spec.input.role", "moderation.flagged"]}}, None),
    ],
)
def test_what_a_consumer_declares_and_nobody_promises_is_a_mistake(reads: Any, mistake: str | None) -> None:
    found = list(mistakes((Consumer(name="x", contact="y", reads=reads),), current_contract()))
    assert found == ([f"x: {mistake}"] if mistake else [])


# -- what may stand ----------------------------------------------------------------------------------------------

BREAK = Change(LAST, "orders: paid.state is not there", ("billing",))
DECIDED = AcceptedBreak("orders: paid.state is not there", "billing moved to the field status")
OLD, NEW = contract(ORDERS), contract(ORDERS, schema_version=2)


@pytest.mark.parametrize(
    ("this", "found", "accepted", "expected"),
    [
        (OLD, [], [], []),
        (OLD, [Change(NOBODY, "orders: paid.extra is new")], [], []),
        (OLD, [BREAK], [], ["a change breaks readers"]),
        (NEW, [BREAK], [], ["a change breaks readers"]),
        (OLD, [BREAK], [DECIDED], ["SCHEMA_VERSION must rise"]),
        (NEW, [BREAK], [DECIDED], []),
        (NEW, [], [DECIDED], ["no such break any more"]),
        (NEW, [BREAK], [AcceptedBreak(BREAK.what, "because")], ["say why"]),
    ],
)
def test_a_break_stands_only_with_a_reason_and_a_higher_version(
    this: Contract, found: list[Change], accepted: list[AcceptedBreak], expected: list[str]
) -> None:
    told = list(faults(OLD, this, found, accepted))
    assert len(told) == len(expected)
    assert all(part in fault for part, fault in zip(expected, told, strict=True))


def test_the_last_release_is_the_highest_version(tmp_path: Any) -> None:
    for version in ("0.9.0", "0.10.0", "0.2.11"):
        keep(contract_of([ORDERS], definitions([ORDERS]), version, 1), tmp_path)
    assert last_release(tmp_path).release == "0.10.0"


def test_what_is_kept_is_what_was(tmp_path: Any) -> None:
    keep(current_contract(), tmp_path)
    assert last_release(tmp_path) == current_contract()


def test_a_folder_without_releases_says_what_to_do(tmp_path: Any) -> None:
    with pytest.raises(ContractError, match="freeze"):
        last_release(tmp_path)


def test_the_list_of_accepted_breaks_is_read(tmp_path: Any) -> None:
    path = tmp_path / "accepted.yaml"
    path.write_text("- change: a\n  reason: b\n")
    assert accepted_breaks(path) == (AcceptedBreak("a", "b"),)
    path.write_text("# none\n")
    assert accepted_breaks(path) == ()
    path.write_text("- change: a\n  why: b\n")
    with pytest.raises(ContractError, match=r"accepted\.yaml"):
        accepted_breaks(path)
