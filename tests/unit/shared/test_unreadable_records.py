"""What is said of a record that cannot be read: what is wrong with it, and nothing of what it holds."""

import json
from collections.abc import Callable

import pytest

from shared.errors import RecordError, UnknownRecordError
from shared.topics import JOURNAL, VERDICTS

SECRET = "what a user wrote"


def said_of(decode: Callable[[bytes], object], value: object) -> str:
    with pytest.raises(RecordError) as raised:
        decode(json.dumps(value).encode())
    return str(raised.value)


@pytest.mark.parametrize(
    "text", [SECRET, "it's quoted", 'with "quotes"', "both ' and \"", "two\nlines", "Zaunkönig - at"]
)
def test_no_value_is_repeated(text: str) -> None:
    said = said_of(VERDICTS.decoder.decode, {"type": "verdict", "stage": text})
    assert text not in said
    assert "$.stage" in said
    assert text not in said_of(JOURNAL.decoder.decode, {"type": text})


def test_the_name_of_a_type_from_another_release_is() -> None:
    with pytest.raises(UnknownRecordError, match="brand_new"):
        JOURNAL.decoder.decode(b'{"type": "brand_new"}')
