"""`client.models`."""

import openai
import pytest

from tests.clients.python_sdk.sdk import Sdk
from tests.clients.scene import MODEL


async def test_list(sdk: Sdk) -> None:
    models = await sdk.all(lambda c: c.models.list())
    assert [(model.id, model.object) for model in models] == [(MODEL, "model")]
    assert models[0].owned_by
    assert models[0].created >= 0


async def test_retrieve(sdk: Sdk) -> None:
    [listed] = await sdk.all(lambda c: c.models.list())
    retrieved = await sdk.call(lambda c: c.models.retrieve(MODEL))
    assert retrieved.to_dict() == listed.to_dict()


async def test_delete_is_no_call_of_ours(sdk: Sdk) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk.call(lambda c: c.models.delete(MODEL))
    assert caught.value.status_code == 405
