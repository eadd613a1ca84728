"""A future that was cancelled has no error, and asking for it is none."""

import asyncio

from shared.futures import error_of


async def test_only_what_failed_has_an_error() -> None:
    succeeded, failed, cancelled = (asyncio.get_running_loop().create_future() for _ in range(3))
    error = ValueError()
    succeeded.set_result(None)
    failed.set_exception(error)
    cancelled.cancel()
    assert [error_of(future) for future in (succeeded, failed, cancelled)] == [None, error, None]
