"""A service's start against brokers that are only just starting themselves."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.admin import NewTopic
from aiokafka.errors import RequestTimedOutError
from aiokafka.structs import BrokerMetadata

from shared.errors import BrokerUnavailableError, LogError
from shared.log import prepare_log
from shared.log.admin import AdminClient
from shared.settings import MeshSettings

NONE, TIMED_OUT, INVALID_REPLICATION_FACTOR, NOT_CONTROLLER, POLICY_VIOLATION = 0, 7, 38, 41, 44


class Brokers:
    """A cluster that answers each attempt to create topics with the next of `answers`, and then makes them. The broker
    that leads them answers after so many looks."""

    def __init__(self, answers: Sequence[int | Exception], silent_looks: int = 0) -> None:
        self.tries = 0
        self.clients = 0
        self.silent_looks = silent_looks
        self._client = self
        self._answers = iter(answers)
        self._topics: dict[str, NewTopic] = {}

    def client(self, **_options: Any) -> "Brokers":
        self.clients += 1
        return self

    async def start(self) -> None:
        """They answer."""

    async def close(self) -> None:
        """They go on."""

    async def list_topics(self) -> list[str]:
        return list(self._topics)

    async def create_topics(self, new: list[NewTopic]) -> Any:
        self.tries += 1
        answer = next(self._answers, NONE)
        if isinstance(answer, Exception):
            raise answer
        if answer == NONE:
            self._topics |= {topic.name: topic for topic in new}
        return SimpleNamespace(topic_errors=[(topic.name, answer, None) for topic in new])

    async def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        return [{"topic": name, "partitions": [{"leader": 7}] * self._topics[name].num_partitions} for name in names]

    async def ready(self, node_id: int) -> bool:
        assert node_id == 7
        self.silent_looks -= 1
        return self.silent_looks < 0


async def start(
    monkeypatch: pytest.MonkeyPatch, *answers: int | Exception, silent_looks: int = 0, timeout_s: float = 10
) -> Brokers:
    brokers = Brokers(answers, silent_looks)
    monkeypatch.setattr("shared.log.admin.AdminClient", brokers.client)
    monkeypatch.setattr("shared.log.admin._RETRY_S", 0)
    await prepare_log(MeshSettings(replication_factor=3, start_timeout_s=timeout_s), None)
    return brokers


@pytest.mark.parametrize("answer", [INVALID_REPLICATION_FACTOR, NOT_CONTROLLER, TIMED_OUT, RequestTimedOutError()])
async def test_topics_that_cannot_be_made_yet_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, answer: int | Exception
) -> None:
    """One broker of three has registered, the controller moves, the cluster is busy."""
    assert (await start(monkeypatch, answer, answer)).tries == 3


async def test_all_that_a_start_asks_goes_over_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await start(monkeypatch)).clients == 1


async def test_a_leader_that_does_not_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It died, and the other brokers have not noticed."""
    assert (await start(monkeypatch, silent_looks=3)).silent_looks == -1


async def test_a_leader_that_never_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BrokerUnavailableError, match="broker 7 leads partitions"):
        await start(monkeypatch, silent_looks=1_000_000, timeout_s=2)


async def test_what_no_waiting_mends_ends_the_start_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LogError, match="PolicyViolationError") as raised:
        await start(monkeypatch, POLICY_VIOLATION)
    assert not isinstance(raised.value, BrokerUnavailableError)


async def test_while_the_brokers_know_of_no_controller_they_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    updates: list[None] = []

    async def update() -> None:
        updates.append(None)

    async def reached(_client: AdminClient) -> None:
        """They answer."""

    async def none_there(_client: AdminClient) -> list[str]:
        return []

    monkeypatch.setattr(AdminClient, "start", reached)
    monkeypatch.setattr(AdminClient, "list_topics", none_there)
    monkeypatch.setattr("aiokafka.client.AIOKafkaClient.force_metadata_update", lambda _client: update())
    with pytest.raises(BrokerUnavailableError, match="controller"):
        await prepare_log(MeshSettings(start_timeout_s=0.3), None)
    assert len(updates) > 1


@pytest.fixture
def alive() -> set[object]:
    """The brokers that answer."""
    return set()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, alive: set[object]) -> list[object]:
    """Whom requests go to, in their order; the answer is that there are no topics."""

    async def ready(_client: object, node_id: object) -> bool:
        return node_id in alive

    async def send(_client: object, node_id: object, _request: object) -> Any:
        to.append(node_id)
        return SimpleNamespace(to_object=lambda: {"topics": []})

    to: list[object] = []
    monkeypatch.setattr("aiokafka.client.AIOKafkaClient.ready", ready)
    monkeypatch.setattr("aiokafka.client.AIOKafkaClient.send", send)
    return to


@pytest.mark.parametrize("living", [1, 2, 3])
async def test_who_asks_any_broker_asks_one_that_answers(alive: set[object], asked: list[object], living: int) -> None:
    alive.add(living)
    client = AdminClient(bootstrap_servers="127.0.0.1:1")
    client._client.cluster._brokers = {
        number: BrokerMetadata(number, "127.0.0.1", number, None) for number in (1, 2, 3)
    }
    assert await client.list_topics() == []
    assert asked == [living]


async def test_while_no_broker_is_known_one_of_the_list_is_asked(alive: set[object], asked: list[object]) -> None:
    alive.add("bootstrap-0")
    assert await AdminClient(bootstrap_servers="127.0.0.1:1").list_topics() == []
    assert asked == ["bootstrap-0"]
