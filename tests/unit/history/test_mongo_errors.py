"""What is said of an error of MongoDB: enough to mend it, and nothing of what was to be stored."""

import pytest
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure, PyMongoError, WriteError

from services.history.errors import StoreError, StoreRefusedError, StoreUnavailableError
from services.history.stores.mongo import _translate

SECRET = "what a user wrote"
NAME = "mongodb://127.0.0.1:27017/chatmesh"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            BulkWriteError({"writeErrors": [{"index": 0, "code": 11000, "errmsg": "E11000", "op": {"text": SECRET}}]}),
            StoreUnavailableError,
            "BulkWriteError code 11000",
        ),
        (
            WriteError("too large", 10334, {"codeName": "BSONObjectTooLarge", "op": {"text": SECRET}}),
            StoreRefusedError,
            "WriteError code 10334 (BSONObjectTooLarge)",
        ),
        (
            OperationFailure(f"not authorized to execute {SECRET}", 13, {"codeName": "Unauthorized"}),
            StoreError,
            "OperationFailure code 13 (Unauthorized) (check the user",
        ),
        (AutoReconnect("127.0.0.1:27017: connection closed"), StoreUnavailableError, "127.0.0.1:27017: connection"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_says_its_code_and_quotes_nothing(error: PyMongoError, kind: type[StoreError], said: str) -> None:
    translated = _translate(NAME, error)
    assert type(translated) is kind
    assert str(translated).startswith(f"{NAME}: {type(error).__name__}")
    assert said in str(translated)
    assert SECRET not in str(translated)
