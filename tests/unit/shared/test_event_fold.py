"""DESIGN 6, rule by rule, over the shipped fold."""

from hypothesis import given
from hypothesis import strategies as st

from shared.folds import EventFold
from shared.records import Accepted, Completed, Deleted, Delta, Events, ResponseSpec, Screening, Usage

R = "resp_1"


def accepted(epoch: int = 0) -> Accepted:
    return Accepted(
        response_id=R,
        epoch=epoch,
        tenant="t",
        spec=ResponseSpec(model="m", input=[]),
        policy="p",
        created_ms=0,
        deadline_ms=1,
        input_tokens=1,
    )


def delta(start: int, text: str, epoch: int = 0, end: int | None = None) -> Delta:
    end = start + len(text) if end is None else end
    return Delta(response_id=R, epoch=epoch, start=start, end=end, text=text, policy="p", window=0)


def completed(text: str, epoch: int = 0) -> Completed:
    usage = Usage(input_tokens=1, output_tokens=1)
    return Completed(response_id=R, epoch=epoch, tenant="t", text=text, usage=usage, finished_ms=2)


def fold(*records: Events) -> EventFold:
    state = EventFold()
    for record in records:
        state.apply(record)
    return state


def test_only_the_contiguous_continuation_counts() -> None:
    state = fold(accepted(), delta(0, "he"), delta(0, "he"), delta(1, "ey"), delta(5, "!"), delta(2, "y"))
    assert (state.text, state.position) == ("hey", 3)


def test_an_owner_of_a_lower_epoch_is_not_heard_any_more() -> None:
    state = fold(
        accepted(), delta(0, "he"), Screening(response_id=R, epoch=1, owner="o2"), delta(2, "XX"), delta(2, "y", 1)
    )
    assert state.text == "hey"
    assert state.apply(completed("heXX")) is None
    assert state.apply(completed("hey", 1)) is not None


def test_each_other_kind_counts_once_and_nothing_but_deleted_follows_the_terminal() -> None:
    state = fold(accepted(), delta(0, "hi"), completed("hi"))
    for late in (accepted(), delta(2, "!"), completed("no"), Screening(response_id=R, epoch=9, owner="o")):
        assert state.apply(late) is None
    deleted = Deleted(response_id=R, tenant="t")
    assert state.apply(deleted) is deleted
    assert state.apply(deleted) is None
    assert state.text == "hi"


def test_a_masked_piece_is_atomic_and_moves_the_position_by_its_raw_length() -> None:
    state = fold(accepted(), delta(0, "***", end=16), delta(3, "late"), delta(16, " ok"))
    assert (state.text, state.position) == ("*** ok", 19)


def test_text_before_accepted_is_not_public() -> None:
    assert fold(delta(0, "x")).text == ""


@given(st.text(max_size=20), st.data())
def test_any_late_copies_leave_the_text_alone(text: str, data: st.DataObject) -> None:
    deltas = [delta(i, c) for i, c in enumerate(text)]
    log: list[Events] = [accepted()]
    for i, record in enumerate(deltas):
        log.append(record)
        log += data.draw(st.lists(st.sampled_from(deltas[: i + 1]), max_size=3))
    assert fold(*log).text == text
