"""Admission: measured depth decides, shares over all gateways, what no beat shows yet, when to come back."""

from collections.abc import Iterator
from contextlib import ExitStack
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.admission import Admission
from services.gateway.errors import ApiError, retry_after
from services.gateway.load import MAX_RETRY_AFTER_S, DrainMeter, MeshLoad, retry_after_s
from shared.heartbeats import Cluster
from shared.records import Heartbeat

MODEL = "m"
BEAT_MS = 200
SETTLE_MS = 400


def cluster(**_: Any) -> Cluster:
    return Cluster(silent_after_ms=1000)


def beat(made: Cluster, service: Any, number: int = 1, at_ms: int = 1000, **fields: Any) -> None:
    known = {"state": "ready", "seq": 1, **({"model": MODEL} if service == "inference" else {}), **fields}
    made.apply(Heartbeat(service=service, id=f"{service}-{number}", **known), at_ms)


def mesh(*, waiting: int = 0, slots_free: int = 0, gateways: int = 1) -> Cluster:
    made = cluster()
    beat(made, "moderation", waiting=waiting)
    beat(made, "inference", slots_free=slots_free)
    for number in range(gateways):
        beat(made, "gateway", number)
    return made


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def admission(made: Cluster, clock: Clock | None = None, **options: Any) -> Admission:
    options = {"max_in_flight": 1000, "max_waiting": 10, "settle_s": 0.4, "blind_after_s": 3.0, **options}
    return Admission(made, MODEL, clock=clock or Clock(), **options)


def refused(made: Admission) -> ApiError:
    with pytest.raises(ApiError) as caught, made.entry():
        pass
    return caught.value


def test_slots_are_bounded_and_given_back() -> None:
    made = admission(mesh(), max_in_flight=1)
    with made.slot():
        with pytest.raises(ApiError) as caught, made.slot():
            pass
        assert (caught.value.status, caught.value.headers) == (429, retry_after(1000))
    with made.slot():
        assert made.in_flight == 1


def test_a_full_queue_is_429_with_retry_after() -> None:
    error = refused(admission(mesh(waiting=10)))
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert int(error.headers["retry-after"]) >= 1


def test_free_slots_are_room_and_what_was_admitted_takes_it() -> None:
    made = admission(mesh(waiting=10, slots_free=2))
    with made.entry(), made.entry():
        assert refused(made).status == 429


def test_what_was_admitted_counts_until_the_beats_show_it() -> None:
    clock = Clock()
    made = admission(mesh(waiting=9), clock)
    with made.entry():
        assert made.unseen == 1
    assert refused(made).status == 429
    clock.now_s = 0.5
    assert made.unseen == 0
    with made.entry():
        pass


def test_what_was_refused_later_counts_no_more() -> None:
    made = admission(mesh())
    with pytest.raises(ApiError), made.entry():
        raise ApiError(400, "bad")
    assert made.unseen == 0


def test_zero_means_no_bound() -> None:
    with admission(mesh(waiting=100_000), max_waiting=0).entry():
        pass


def test_slots_of_other_models_and_of_draining_workers_are_no_room() -> None:
    made = mesh(waiting=10)
    beat(made, "inference", 2, slots_free=5, model="another")
    beat(made, "inference", 3, slots_free=5, state="draining")
    assert MeshLoad.of(made, MODEL).room(10) == 0


def test_without_any_worker_it_is_503_and_a_starting_one_is_waited_for() -> None:
    made = cluster()
    beat(made, "moderation")
    error = refused(admission(made))
    assert (error.status, error.headers) == (503, retry_after(5000))
    assert MODEL in error.message
    beat(made, "inference", 1, state="starting", model="another")
    assert refused(admission(made)).status == 503
    beat(made, "inference", 2, state="starting", model="")
    with admission(made).entry():
        pass


def test_without_an_owner_nothing_is_measured_and_it_is_503() -> None:
    made = cluster()
    beat(made, "inference", slots_free=3)
    assert refused(admission(made)).status == 503


def test_when_no_beats_come_it_is_503_until_they_come_again() -> None:
    clock, beats = Clock(), mesh(slots_free=1)
    made = admission(beats, clock)
    clock.now_s = 3.5
    error = refused(made)
    assert (error.status, error.headers) == (503, retry_after(1000))
    beat(beats, "moderation", at_ms=1500)
    with made.entry():
        pass


@given(
    waiting=st.integers(0, 400),
    slots_free=st.integers(0, 64),
    gateways=st.integers(1, 9),
    max_waiting=st.integers(1, 300),
    choices=st.randoms(use_true_random=False),
)
def test_a_burst_over_all_gateways_overshoots_by_less_than_their_number(
    waiting: int, slots_free: int, gateways: int, max_waiting: int, choices: Random
) -> None:
    """Whatever gateway each of endless requests goes to, between two beats."""
    beats = mesh(waiting=waiting, slots_free=slots_free, gateways=gateways)
    room = max(0, max_waiting + slots_free - waiting)
    doors = [admission(beats, max_waiting=max_waiting) for _ in range(gateways)]
    with ExitStack() as held:
        admitted = sum(_enters(held, choices.choice(doors)) for _ in range(2 * room + 10))
        admitted += sum(_enters(held, door) for door in doors for _ in range(room + 1))
    assert room <= admitted <= room + (gateways - 1 if room else 0)


def _enters(held: ExitStack, door: Admission) -> bool:
    try:
        held.enter_context(door.entry())
    except ApiError:
        return False
    return True


class Simulation:
    """A mesh in steps of 10 ms: every job is accepted at once, an owner counts it, workers end jobs at random."""

    def __init__(self, rng: Random, gateways: int, slots: int, max_waiting: int) -> None:
        self.rng, self.slots, self.busy, self.waiting, self.now_ms = rng, slots, 0, 0, 1000
        self.clock = Clock()
        self.beats = [cluster() for _ in range(gateways)]
        self.beat_all()
        self.doors = [
            admission(seen, self.clock, max_waiting=max_waiting, settle_s=SETTLE_MS / 1000) for seen in self.beats
        ]
        self.peak = self.in_window = 0
        self.entered: list[int] = []

    def beat_all(self) -> None:
        for seen in self.beats:
            for number in range(len(self.beats)):
                beat(seen, "gateway", number, self.now_ms)
            beat(seen, "moderation", 1, self.now_ms, waiting=self.waiting)
            beat(seen, "inference", 1, self.now_ms, slots_free=self.slots - self.busy)

    def step(self, arrivals: int) -> None:
        self.now_ms += 10
        self.clock.now_s += 0.01
        if self.now_ms % BEAT_MS == 0:
            self.beat_all()
        for _ in range(arrivals):
            with ExitStack() as held:
                if _enters(held, self.rng.choice(self.doors)):
                    self.waiting += 1
                    self.entered.append(self.now_ms)
        self.entered = [at for at in self.entered if at > self.now_ms - SETTLE_MS]
        self.in_window = max(self.in_window, len(self.entered))
        self.busy -= sum(self.rng.random() < 0.01 for _ in range(self.busy))
        started = min(self.waiting, self.slots - self.busy)
        self.busy, self.waiting = self.busy + started, self.waiting - started
        self.peak = max(self.peak, self.waiting)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), gateways=st.integers(1, 5), slots=st.integers(1, 16), max_waiting=st.integers(1, 60))
def test_under_endless_load_the_queue_stays_within_the_documented_bound(
    seed: int, gateways: int, slots: int, max_waiting: int
) -> None:
    simulation = Simulation(Random(seed), gateways, slots, max_waiting)
    for _ in range(400):
        simulation.step(arrivals=simulation.rng.randint(0, 12))
    assert simulation.peak <= max_waiting + gateways - 1 + simulation.in_window
    assert simulation.peak >= min(max_waiting, 2), "the bound must be used, not only kept"
    while simulation.waiting + simulation.busy:
        simulation.step(arrivals=0)
    for _ in range(2 * SETTLE_MS // 10):
        simulation.step(arrivals=0)
    with simulation.doors[0].entry():
        pass


def ends(meter: DrainMeter, made: Cluster, claims: Iterator[list[str]], every_ms: int) -> None:
    at_ms = 1000
    for held in claims:
        beat(made, "inference", at_ms=at_ms, claims=held)
        meter.observe(made)
        at_ms += every_ms


def test_the_drain_rate_is_that_of_ending_claims() -> None:
    made, meter = cluster(), DrainMeter(MODEL, window_ms=10_000)
    ends(meter, made, ([f"c{n}", f"c{n + 1}"] for n in range(101)), every_ms=200)
    assert meter.per_s(made.now_ms) == pytest.approx(5.0, rel=0.05)
    beat(made, "moderation", at_ms=made.now_ms + 60_000)
    assert meter.per_s(made.now_ms) == pytest.approx(0.1)


def test_a_worker_that_vanished_ended_nothing() -> None:
    made, meter = cluster(), DrainMeter(MODEL)
    beat(made, "inference", claims=["a", "b", "c"])
    meter.observe(made)
    beat(made, "moderation", at_ms=9000)
    meter.observe(made)
    assert meter.per_s(9000) == pytest.approx(1 / 8)


@given(excess=st.integers(-5, 10**6), rate=st.floats(1e-3, 1e4))
def test_retry_after_is_bounded_and_long_enough_for_the_excess(excess: int, rate: float) -> None:
    found = retry_after_s(excess, rate)
    assert 1 <= found <= MAX_RETRY_AFTER_S
    assert found == MAX_RETRY_AFTER_S or found * rate >= excess


def test_retry_after_follows_the_rate() -> None:
    beats, clock = mesh(waiting=40), Clock()
    made = admission(beats, clock)
    for n in range(101):
        beat(beats, "inference", at_ms=1000 + 100 * n, claims=[f"c{n}"])
        beat(beats, "moderation", at_ms=1000 + 100 * n, waiting=40)
        made.observe()
    assert refused(made).headers["retry-after"] == "4"  # 31 jobs too many, 10 end per second
