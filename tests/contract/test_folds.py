"""A store folds like `EventFold`, however often and in whatever batches its records come."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from services.history.stores.port import Recordable
from services.history.stores.sqlite import SqliteStore
from shared.folds import EventFold
from shared.records import Deleted, Screening
from tests.unit.history.fakes import TENANT, accepted, an_id, completed

ID = an_id()


@st.composite
def logs(draw: st.DrawFn) -> list[Recordable]:
    """A response's events as owners write them: each owner screens first; superseded ones may still speak.

    A superseded owner speaks with its old epoch at any later place.
    """
    log: list[Recordable] = [accepted(ID, text="first")]
    epoch = 0
    for number in range(draw(st.integers(0, 6))):
        kind = draw(
            st.sampled_from(["takeover", "accept", "end", "zombie accept", "zombie end", "delete", "foreign delete"])
        )
        old = draw(st.integers(0, epoch))
        if kind == "takeover":
            epoch += 1
            log.append(Screening(response_id=ID, epoch=epoch, owner=str(number)))
        elif kind.endswith("delete"):
            log.append(Deleted(response_id=ID, tenant=TENANT if kind == "delete" else "other"))
        elif kind.endswith("accept"):
            log.append(accepted(ID, text=f"again {number}", epoch=old if "zombie" in kind else epoch))
        else:
            log.append(completed(ID, f"end {number}", epoch=old if "zombie" in kind else epoch))
    return log


@st.composite
def deliveries(draw: st.DrawFn, log: list[Recordable]) -> list[list[Recordable]]:
    """The log in batches, at least once: before each batch a reader may fall back to an earlier offset."""
    batches, done = [], 0
    for _ in range(20):
        if done == len(log):
            break
        begin = draw(st.integers(0, done))
        end = draw(st.integers(begin, len(log)))
        batches.append(log[begin:end])
        done = max(done, end)
    return [*batches, log[done:]]


@settings(max_examples=150)
@given(st.data())
async def test_any_delivery_comes_to_what_the_fold_says(data: st.DataObject) -> None:
    log = data.draw(logs())
    fold = EventFold()
    for record in log:
        fold.apply(record)
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "h.sqlite3")
        await store.open()
        ended: list[str] = []
        for batch in data.draw(deliveries(log)):
            ended += (await store.record(batch)).ended
        found = await store.get(TENANT, ID)
        await store.close()
    assert (found and found.terminal) == (None if fold.deleted else fold.terminal)
    assert ended == ([ID] if fold.terminal else [])
    if found is not None:
        assert found.accepted == fold.accepted
