"""What was said before a request. Pure."""

from dataclasses import dataclass

from shared.records import Accepted, AnyTerminal, Failed, Message
from shared.turns import turn_messages


@dataclass(frozen=True, slots=True)
class Past:
    """What history tells up to the end of the response `base` (None: nothing), then `messages`, which the gateway
    knows. `told`: history could tell it all by itself."""

    base: str | None = None
    messages: tuple[Message, ...] = ()
    told: bool = True

    def then(self, accepted: Accepted, terminal: AnyTerminal) -> "Past | None":
        """The past at the end of a response that went on from this one; None where nobody needs to remember it:
        history tells it whole, or it cannot be continued."""
        if isinstance(terminal, Failed) or accepted.spec.conversation is not None:
            return None
        if accepted.spec.store and self.told:
            return None
        return Past(self.base, (*self.messages, *turn_messages(accepted, terminal)), told=False)
