"""What other services answer, as clients read it."""

import pytest

from services.gateway.replies import refusal
from shared.records import Rejected, ResponseErased

AGAIN = {"retry-after": "7", "retry-after-ms": "7000"}


@pytest.mark.parametrize(
    ("status", "headers"),
    [(400, {}), (404, {}), (429, AGAIN), (500, {}), (503, AGAIN)],
)
def test_a_refusal_says_when_to_come_again_where_that_may_help(status: int, headers: dict[str, str]) -> None:
    rejected = Rejected(
        gateway="g", correlation_id="q", status=status, message="No.", code="c", param="p", error_type="t"
    )
    error = refusal(rejected, retry_s=7)
    assert (error.status, error.headers) == (status, headers)
    assert error.body() == {"message": "No.", "type": "t", "param": "p", "code": "c"}


def test_a_reply_that_nobody_asked_for_is_an_error_of_ours() -> None:
    error = refusal(ResponseErased(gateway="g", correlation_id="q"))
    assert error.status == 500
    assert "ResponseErased" in error.message
