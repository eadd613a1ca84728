"""aiokafka's members of groups, able to tell a coordinator that does not know from a group that committed nothing, and
to leave only once what they committed is answered.

From version 2 of OffsetFetch on, a broker that is not the group's coordinator, or has not loaded its groups yet, says
so beside the partitions and names none of them; aiokafka asks in version 3 and looks at the partitions alone. To a
service that takes partitions over while a broker is rolled, nothing would ever have been committed.

A commit goes on when who asked for it is cancelled (`asyncio.shield`), and then nobody waits for it: where the member
closes its connections first, it fails, and asyncio reports an exception that nobody has retrieved. Only the answer to
LeaveGroup, which comes behind that to the commit, used to keep the two apart; in generation 0, the first one of a group
on the embedded broker, aiokafka sends none.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiokafka.consumer.consumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest

_ASK_ANOTHER = (NotCoordinatorForGroupError, GroupCoordinatorNotAvailableError)


class Coordinator(GroupCoordinator):  # type: ignore[misc]
    """Raises what the coordinator says of the whole group when it is asked for offsets; what passes is asked again.

    Closes behind the commits that are under way: bounded by their request's timeout.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._committing: set[asyncio.Task[None]] = set()

    def _do_commit_offsets(self, assignment: Any, offsets: Mapping[Any, Any]) -> "asyncio.Task[None]":
        task = asyncio.create_task(super()._do_commit_offsets(assignment, offsets), name=f"commit of {self.group_id}")
        self._committing.add(task)
        task.add_done_callback(self._committed)
        return task

    def _committed(self, task: "asyncio.Task[None]") -> None:
        self._committing.discard(task)
        if not task.cancelled():
            task.exception()  # who still waits for it has it too

    async def close(self) -> None:
        if self._committing:
            await asyncio.wait(self._committing)
        await super().close()

    async def _send_req(self, request: Any) -> Any:
        response = await super()._send_req(request)
        if isinstance(request, OffsetFetchRequest) and (code := getattr(response, "error_code", 0)):
            kind = for_code(code)
            if issubclass(kind, _ASK_ANOTHER):
                self.coordinator_dead()
            raise kind(self.group_id)
        return response


aiokafka.consumer.consumer.GroupCoordinator = Coordinator
"""Its consumers take no class for their coordinator: this is the name by which they call it."""
