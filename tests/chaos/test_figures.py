"""Whose pause a silence is."""

from tests.chaos.checker import Evidence
from tests.chaos.figures import pauses
from tests.chaos.observations import AnyClientLine, AnyFaultLine, Asked, Event, Healed, Injected, Opened


def stream(number: int, gateway: str, *times: float) -> list[AnyClientLine]:
    events = [Event(at=at, stream=number, type="d", number=n) for n, at in enumerate(times)]
    events[0] = Event(at=times[0], stream=number, type="d", number=0, response_id=f"resp_{number:032x}")
    return [
        Asked(at=times[0], stream=number, prompt="p"),
        Opened(at=times[0], stream=number, gateway=gateway, sent_at=times[0]),
        *events,
    ]


def killed(gateway: str, at: float) -> Injected:
    return Injected(at=at, fault=f"{gateway} dies", service="gateway", victim=gateway)


def broker_killed(at: float) -> Injected:
    return Injected(at=at, fault="broker dies", service="broker", victim="broker")


def figures(*lines: AnyClientLine | AnyFaultLine) -> dict[str, tuple[int, float]]:
    rows = pauses(Evidence(lines, {}, {}, {}))
    return {row.fault: (row.streams, row.max_s) for row in rows}


def test_each_gateways_death_pauses_its_own_streams() -> None:
    found = figures(
        *stream(1, "g1", 0.0, 1.0, 4.0), *stream(2, "g2", 0.0, 1.0, 2.0, 2.5), killed("g1", 1.5), killed("g2", 1.5)
    )
    assert found == {"g1 dies": (1, 2.5), "g2 dies": (1, 0.5)}


def test_a_pause_that_two_faults_share_belongs_to_neither() -> None:
    lines = [*stream(1, "g1", 0.0, 1.0, 9.0), *stream(2, "g2", 0.0, 1.0, 6.0)]
    found = figures(*lines, killed("g1", 1.5), broker_killed(2.0))
    assert found["g1 dies"][0] == 0
    assert found["broker dies"] == (1, 4.0)


def test_a_fault_that_was_healed_disturbs_no_later_one() -> None:
    lines = stream(1, "g1", 0.0, 1.0, 3.0, 4.0, 6.0)
    healed = Healed(at=3.5, fault="g1 dies", victim="g1")
    found = figures(*lines, killed("g1", 1.5), healed, broker_killed(4.5))
    assert found == {"g1 dies": (1, 1.5), "broker dies": (1, 1.5)}
