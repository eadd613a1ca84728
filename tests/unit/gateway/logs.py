"""Records of one response, as moderation would write them."""

from typing import Any

from shared.ids import ResponseId
from shared.records import Accepted, Completed, Delta, Message, ResponseSpec, Usage


class Log:
    """Makes the records of one response."""

    def __init__(self, response_id: ResponseId, tenant: str = "acme") -> None:
        self.id = response_id
        self.tenant = tenant

    def accepted(self, **spec: Any) -> Accepted:
        spec = {"model": "m", "input": [Message(role="user", parts=["Hi"])], **spec}
        return Accepted(
            response_id=self.id.text,
            tenant=self.tenant,
            spec=ResponseSpec(**spec),
            policy="p1",
            created_ms=self.id.created_ms,
            deadline_ms=self.id.created_ms + 600_000,
            input_tokens=7,
        )

    def delta(self, start: int, text: str, *, epoch: int = 0) -> Delta:
        return Delta(
            response_id=self.id.text, epoch=epoch, start=start, end=start + len(text), text=text, policy="p1", window=0
        )

    def terminal(self, kind: type[Any] = Completed, text: str = "", **fields: Any) -> Any:
        return kind(
            response_id=self.id.text,
            tenant=self.tenant,
            text=text,
            usage=Usage(input_tokens=7, output_tokens=3, cached_tokens=2),
            finished_ms=self.id.created_ms + 1500,
            **fields,
        )
