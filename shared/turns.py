"""One turn of a conversation, as a later one is reminded of it: the same wherever it was kept."""

from shared.ids import parse_response_id
from shared.records import Accepted, AnyTerminal, Message


def turn_messages(accepted: Accepted, terminal: AnyTerminal) -> list[Message]:
    """What was said: the client's input, then the public text of the answer.

    A response that was asked for no output (`generate` false) contributes its input only.
    """
    if not accepted.spec.generate:
        return list(accepted.spec.input)
    answer_id = parse_response_id(accepted.response_id).message_id
    return [*accepted.spec.input, Message(role="assistant", parts=[terminal.text], id=answer_id)]
