"""One turn of a conversation, as a later one is reminded of it: the same wherever it was kept."""

from hashlib import blake2b

from shared.ids import parse_response_id
from shared.records import Accepted, AnyTerminal, Cancelled, Failed, Incomplete, Item, Message


def turn_messages(accepted: Accepted, terminal: AnyTerminal) -> list[Message]:
    """What was said: the client's input, then the public text of the answer.

    A response that was asked for no output (`generate` false) contributes its input only.
    """
    if not accepted.spec.generate:
        return list(accepted.spec.input)
    answer_id = parse_response_id(accepted.response_id).message_id
    return [*accepted.spec.input, Message(role="assistant", parts=[terminal.text], id=answer_id)]


def turn_items(accepted: Accepted, terminal: AnyTerminal) -> list[Item]:
    """What the response brings into its conversation as it ends; nothing if it failed."""
    if isinstance(terminal, Failed):
        return []
    given = [
        Item(
            id=input_item_id(accepted, place), role=message.role, parts=message.parts, response_id=accepted.response_id
        )
        for place, message in enumerate(accepted.spec.input)
    ]
    if not accepted.spec.generate:
        return given
    answer = Item(
        id=parse_response_id(accepted.response_id).message_id,
        role="assistant",
        parts=[terminal.text],
        status="incomplete" if isinstance(terminal, Incomplete | Cancelled) else "completed",
        response_id=accepted.response_id,
    )
    return [*given, answer]


def input_item_id(accepted: Accepted, place: int) -> str:
    """The name of the request's item at `place`: the client's, else one that follows from the place.

    Equal at every replica; a client cannot have made it up, as it did not know the response's id. In a conversation
    all names are ours: a client that sends an item of the conversation once more adds another item.
    """
    given = accepted.spec.input[place].id if accepted.spec.conversation is None else None
    return given or "msg_" + blake2b(f"{accepted.response_id}/{place}".encode(), digest_size=16).hexdigest()
