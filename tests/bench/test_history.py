"""The bench of history: its dialogues are lives that the folds accept, and small measures of the embedded store."""

from pathlib import Path

import pytest

from shared.chat import load_chat_tokenizer
from shared.folds import EventFold
from shared.records import Delta
from tests.bench.history.dialogue import Dialogue
from tests.bench.history.measures import context, pages, recorded_per_s
from tests.bench.history.outage import Latency
from tests.bench.history.places import default_places, place
from tests.bench.history.stage import Row, middle, table


def test_a_dialogue_is_a_chain_of_whole_lives() -> None:
    dialogue, parent = Dialogue(seed=1), None
    for _ in range(3):
        fold, records = EventFold(), dialogue.turn(deltas=4)
        assert sum(isinstance(record, Delta) for record in records) == 4
        for record in records:
            assert fold.apply(record) is not None
        assert fold.accepted is not None
        assert fold.terminal is not None
        assert fold.text == fold.terminal.text
        assert fold.accepted.spec.previous_response_id == parent
        parent = fold.accepted.response_id
    assert dialogue.asks().request.spec.previous_response_id == parent


def test_the_same_seed_says_the_same() -> None:
    one, other, another = (Dialogue(seed).items(6) for seed in (1, 1, 2))
    assert [item.parts for item in one] == [item.parts for item in other] != [item.parts for item in another]
    assert [item.role for item in Dialogue(1).items(3)] == ["user", "assistant", "user"]


async def test_every_figure_of_the_embedded_store(tmp_path: Path) -> None:
    with place("sqlite") as there:
        async with there.opened(tmp_path) as store:
            found = await context(store, load_chat_tokenizer(""), dialogues=2, turns=3)
            assert 300 < found.tokens < 500
            assert min(found.chain_ms, found.conversation_ms, found.unseen_ms) > 0
            assert await recorded_per_s(store, responses=12, batch=5) > 0
            assert await recorded_per_s(store, responses=12, batch=5, in_conversations=True) > 0
            read = await pages(store, items=60, page=20, rounds=1)
            assert 0 < read.median_ms <= read.slowest_ms


def test_a_figure_is_the_median_of_its_rounds_and_has_a_column_by_store() -> None:
    rounds = [[Row("page, ms", ms, "≤ 10"), Row("rate", 1000 * ms)] for ms in (1.0, 9.0, 2.0)]
    shown = table({"SQLite": middle(rounds), "MongoDB": [Row("rate", 7.0)]})
    assert shown.splitlines()[2:] == ["| page, ms | 2.00 |  | ≤ 10 |", "| rate | 2,000 | 7.00 |  |"]
    assert Latency(normal_ms=20, stopped_ms=25).ratio == pytest.approx(1.25)


def test_a_server_is_measured_where_one_is_named() -> None:
    assert default_places({}) == ["sqlite"]
    assert default_places({"MONGODB_URL": "mongodb://host"}) == ["sqlite", "mongodb"]
