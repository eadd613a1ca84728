"""Ids: time and partition survive the round trip; anything else is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidIdError
from shared.ids import MAX_PARTITIONS, is_id, new_id, new_response_id, parse_response_id, response_id_text


@given(st.integers(0, MAX_PARTITIONS - 1), st.integers(0, (1 << 48) - 1))
def test_a_response_id_names_its_partition_and_time(partition: int, unix_ms: int) -> None:
    minted = new_response_id(partition, unix_ms=unix_ms)
    assert parse_response_id(minted.text) == minted
    assert (minted.partition, minted.created_ms) == (partition, unix_ms)
    assert minted.message_id.removeprefix("msg_") == minted.text.removeprefix("resp_")


def test_ids_sort_by_time_within_a_partition() -> None:
    ids = [new_response_id(5, unix_ms=ms).text for ms in (1, 2, 1000, 2_000_000_000_000)]
    assert ids == sorted(ids)


@pytest.mark.parametrize("partition", [-1, MAX_PARTITIONS])
def test_a_partition_that_does_not_fit_is_refused(partition: int) -> None:
    with pytest.raises(InvalidIdError, match=str(partition)):
        new_response_id(partition)


@given(st.text())
def test_other_text_is_no_response_id(text: str) -> None:
    with pytest.raises(InvalidIdError):
        parse_response_id(text)


@pytest.mark.parametrize(
    "text", ["resp_" + "0" * 32, "resp_" + "f" * 32, new_id("conv"), new_response_id(1).text.upper()]
)
def test_look_alikes_are_refused(text: str) -> None:
    with pytest.raises(InvalidIdError):
        parse_response_id(text)


def test_a_completion_id_leads_back_to_its_response() -> None:
    minted = new_response_id(7)
    assert minted.completion_id == "chatcmpl-" + minted.text.removeprefix("resp_")
    assert response_id_text(minted.completion_id) == response_id_text(minted.text) == minted.text


@pytest.mark.parametrize(
    "text", ["chatcmpl-", "chatcmpl-xyz", "chatcmpl_" + "0" * 32, "chatcmpl-" + "A" * 32, "resp_x"]
)
def test_what_is_no_completion_id_stays_as_it_is(text: str) -> None:
    assert response_id_text(text) == text


def test_what_has_the_form_of_an_id_is_one() -> None:
    for prefix in ("conv", "msg"):
        assert is_id(prefix, new_id(prefix))
    digits = new_id("conv").removeprefix("conv_")
    cut, far = digits[1:], f"{digits}0"
    for text in ("", "conv_", f"msg_{digits}", f"conv-{digits}", f"conv_{far}", f"conv_{cut}", f"Conv_{digits}"):
        assert not is_id("conv", text), text
    for text in (f"conv_{digits}\n", f"conv_{cut}G", f"conv_{cut}\u0661", f"xconv_{digits}"):
        assert not is_id("conv", text), text
