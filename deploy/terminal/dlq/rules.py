"""Which dead letters can be sent back, as the registry has it (`Topic.sent_back`), and why the others cannot. Pure.

A record may go back where handling it late comes to what handling it in time would have come to, and where nobody was
told that it failed. Whoever waits for an answer has given up or was told 5xx by the time that a person looks at a dead
letter; what they asked for must not happen behind their back. To forget is the exception: who wanted something
forgotten still does.
"""

from deploy.terminal.dlq.letters import Letter, unreadable
from shared.topics import CONTEXT, EVENTS, HISTORY_QUERIES, JOBS, JOURNAL, MODERATION_QUERIES, REGISTRY

_REASONS = {
    EVENTS.name: (
        "the terminal record of its response says all that readers and history still need; what began twice could be "
        "counted twice"
    ),
    JOURNAL.name: "what came behind it was decided without it, and its place in that order is gone",
    HISTORY_QUERIES.name: "whoever asked was told that it failed, or has given up: it is theirs to ask again",
    CONTEXT.name: "whoever asked was told that the request failed, or has given up: it is theirs to ask again",
    MODERATION_QUERIES.name: "whoever asked was told that it failed, or has given up: it is theirs to ask again",
    JOBS.name: (
        "it is mail to one worker, which may be gone; the owner of its response has sent another attempt since, or has "
        "ended the response"
    ),
}
_NOTES = {
    EVENTS.name: "readers count each kind once: where it is known already, it changes nothing",
    JOURNAL.name: "a cancel of a response that has ended meanwhile is ignored",
}


def why_not(letter: Letter) -> str | None:
    """Why the letter cannot be sent back, None if it can."""
    if letter.body.origin_partition < 0:
        return "it is no record that somebody sent, but work that was given up after all its attempts"
    sent_back = REGISTRY[letter.body.origin_topic].sent_back
    if not sent_back:
        return _REASONS[letter.body.origin_topic]
    if letter.body.shortened:
        return "it was too long for its letter, which has only the beginnings of its parts"
    error = unreadable(letter)
    if error is not None:
        return f"this release cannot read it either, so it would only come back: {error}"
    return None if isinstance(letter.decoded(), sent_back) else _REASONS[letter.body.origin_topic]


def note(letter: Letter) -> str:
    """What to know about a letter that can be sent back, "" if nothing."""
    return _NOTES.get(letter.body.origin_topic, "")
