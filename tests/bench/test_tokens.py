"""CPU per token: the arithmetic, and that the synthetic lives are lives that the mesh's own folds accept."""

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from shared.folds import EventFold, JournalFold
from shared.records import Accepted
from tests.bench.idle import Idle, idle_table
from tests.bench.tokens.cost import Cost, Measured, cost_table, middle
from tests.bench.tokens.rate import TokenLoad, due
from tests.bench.tokens.readers import pong, text_frame
from tests.bench.tokens.synthetic import PIECE, Synthetic
from tests.bench.tokens.window import Window


def a_cost(name: str, cpu_us: float) -> Cost:
    return Cost(name, cpu_us, tokens=100, tokens_per_s=5000, busy=0.1, others=0.5)


def test_a_cost_is_cpu_time_over_tokens() -> None:
    cost = Cost.of("owner", Window(start_ms=1_000, end_ms=21_000, cpu_s=5.0, others_s=10.0), tokens=100_000, written=7)
    assert (cost.cpu_us, cost.tokens_per_s, cost.busy, cost.others, cost.written) == (50.0, 5000.0, 0.25, 0.5, 7)


def test_what_no_bare_loop_does_is_left_out_of_the_ratio_and_said() -> None:
    measured = Measured(a_cost("worker", 50), [a_cost("bare producer", 20)], a_cost("scripted engine", 10))
    assert measured.ratios == [2.0]
    shown = cost_table([measured])
    assert "| worker, with the scripted engine | 50 |  | 5,000 | 0.10 |" in shown
    assert "| scripted engine, alone | 10 |" in shown
    assert "| bare producer | 20 | **2.00** |" in shown


def test_the_middle_round_is_a_round_and_not_a_mixture() -> None:
    rounds = [Measured(a_cost("owner", us), [a_cost("bare", 10)]) for us in (30, 10, 20)]
    assert middle(rounds) is rounds[2]
    assert middle(rounds[:2]) is rounds[1]


def test_idle_memory_is_per_stream() -> None:
    idle = Idle("sse", 1000, before_bytes=100_000_000, with_bytes=120_480_000, busy=0.02)
    assert idle.each_kib == 20.0
    assert "| 1,000 server-sent events | 100 | 120 | **20.0** | 0.02 |" in idle_table([idle])


def test_a_synthetic_journal_is_one_generation() -> None:
    response, fold = Synthetic.new(3, "m"), JournalFold()
    for record in (response.requested(), response.claimed(), response.tokens(), response.tokens()):
        fold.apply(record)
    assert fold.owner is not None and fold.owner.live
    assert fold.text == 2 * PIECE


def test_synthetic_events_are_one_text() -> None:
    response, fold = Synthetic.new(3, "m"), EventFold()
    requested = response.requested()
    accepted = Accepted(
        response_id=requested.response_id,
        tenant=requested.tenant,
        spec=requested.spec,
        policy="p",
        created_ms=requested.created_ms,
        deadline_ms=requested.deadline_ms,
        input_tokens=1,
    )
    for record in (accepted, response.delta(), response.delta()):
        fold.apply(record)
    assert fold.text == 2 * PIECE


def test_streams_are_spread_over_all_partitions() -> None:
    load = TokenLoad(streams=64, partitions=32)
    assert sorted({load.partition_of(stream) for stream in range(load.streams)}) == list(range(32))


async def test_what_is_due_adds_up_to_the_rate() -> None:
    counts: list[int] = []
    async for count in due(per_s=2000, tick_s=0.001):
        counts.append(count)
        if sum(counts) >= 100:
            break
    assert len(counts) > 1


def parsed(frame: bytes) -> Frame:
    """As a server reads it. A frame that is not whole raises ValueError."""
    reader = StreamReader()
    reader.feed_data(frame)
    try:
        next(Frame.parse(reader.read_exact, mask=True))
    except StopIteration as done:
        assert isinstance(done.value, Frame)
        return done.value
    raise ValueError("the frame is not whole")


@pytest.mark.parametrize("size", [5, 125, 126, 3000])
def test_a_masked_frame_is_read_by_a_real_server(size: int) -> None:
    frame = parsed(text_frame(b"x" * size))
    assert (frame.opcode, frame.data) == (Opcode.TEXT, b"x" * size)


def test_a_ping_is_answered_with_its_own_words() -> None:
    frame = parsed(pong(Frame(Opcode.PING, b"abcd").serialize(mask=False)))
    assert (frame.opcode, frame.data) == (Opcode.PONG, b"abcd")
