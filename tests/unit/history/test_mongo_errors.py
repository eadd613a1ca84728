"""What is said of an error of MongoDB: enough to mend it, and nothing of what was to be stored."""

from typing import NoReturn

import pytest
from dns.exception import DNSException
from dns.resolver import NXDOMAIN, LifetimeTimeout
from pymongo.errors import AutoReconnect, BulkWriteError, OperationFailure, PyMongoError, WriteError

from services.history.errors import StoreError, StoreRefusedError, StoreUnavailableError
from services.history.stores.mongo import MongoStore, _translate

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


@pytest.mark.parametrize("error", [LifetimeTimeout(timeout=1.0, errors=[]), NXDOMAIN()], ids=lambda e: type(e).__name__)
async def test_names_that_cannot_be_looked_up_now_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, error: DNSException
) -> None:
    """The driver calls that a wrong configuration. It looks them up when it is first used, and again if that failed."""

    def away(*_: object, **__: object) -> NoReturn:
        raise error

    monkeypatch.setattr("pymongo.synchronous.srv_resolver._resolve", away)
    store = MongoStore("mongodb+srv://somebody:secret@cluster.example.com/chatmesh")
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="ConfigurationError The ") as raised:
            await store.open()
        assert "secret" not in str(raised.value)
    await store.close()


async def test_an_address_that_is_none_is_not_waited_for() -> None:
    store = MongoStore("mongodb+srv://somebody:secret@cluster.example.com:27017/chatmesh")
    with pytest.raises(StoreError, match="MONGODB_URL") as raised:
        await store.open()
    assert type(raised.value) is StoreError and "secret" not in str(raised.value)
