"""Work that ends when its client leaves, or the gateway."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import Receive

from services.gateway.drain import Drain


async def until_disconnect(receive: Receive, drain: Drain, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` (the request's body has been read); cancel it as soon as the client disconnects.

    Raises what `work` raises, and ApiError 503 when the gateway's drain is over before it is done. A client that left
    gets no answer, so there is nothing to return.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, watching, drain.over}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
        elif not watching.done():
            raise drain.refusal()
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.gather(watching, working, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
