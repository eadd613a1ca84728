"""aiokafka's members of groups, able to tell a coordinator that does not know from a group that committed nothing.

From version 2 of OffsetFetch on, a broker that is not the group's coordinator, or has not loaded its groups yet, says
so beside the partitions and names none of them; aiokafka asks in version 3 and looks at the partitions alone. To a
service that takes partitions over while a broker is rolled, nothing would ever have been committed.
"""

from typing import Any

import aiokafka.consumer.consumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest

_ASK_ANOTHER = (NotCoordinatorForGroupError, GroupCoordinatorNotAvailableError)


class Coordinator(GroupCoordinator):  # type: ignore[misc]
    """Raises what the coordinator says of the whole group when it is asked for offsets; what passes is asked again."""

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
