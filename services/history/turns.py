"""`context.requested` in, `responses.journal` or a rejection on `gateway.replies` out (DESIGN 4.1)."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from services.history.context import PromptTooLong, Turn, turns_of, with_context
from services.history.locks import finish, take
from services.history.lookup import Missing, find_chain
from services.history.ports import Ports
from services.history.replies import LOCKED, Refusal, not_found, refused
from services.history.retry import TRANSIENT
from services.history.stores.port import Holder, NotThere, StoredResponse
from shared.chat import ChatTemplateError
from shared.control import Outgoing
from shared.ids import parse_response_id
from shared.records import ContextRequested, Failed, Item, Requested
from shared.topics import JOURNAL
from shared.turns import turn_messages

log = logging.getLogger(__name__)

_PARENT = "previous_response_id"
_PROMPT_MS = 1_000
"""A younger request is not looked for in the log: a look reads all that its partition was told since, so that requests
which are late for want of time would only get later. A second delivery may be as young where no replica died, and does
no harm: its owner still knows the response, and the store its answer."""

_BYTES_PER_TOKEN = 512
"""No message takes more in a record: of what is longer than a window of them, the rest cannot fit either."""


async def request_with_context(asked: ContextRequested, ports: Ports) -> list[Outgoing]:
    """Append the request with its context to the journal, or tell its gateway why not.

    A redelivered request is appended again: the journal's fold ignores the second (DESIGN 5), and whether its response
    has ended its owner knows, or looks up.
    """
    request = asked.request
    outcome = await _outcome(asked, ports)
    if outcome is None or await _came_through_before(request, ports):
        log.info("%s was accepted before: its request was delivered twice", request.response_id)
        return []
    if isinstance(outcome, Requested):
        return [Outgoing(JOURNAL, outcome)]
    if request.reply_to is None:
        log.warning("%s refused, and nobody waits for the reason: %s", request.response_id, outcome.message)
        return []
    return [refused(request.reply_to, request.response_id, outcome)]


async def _came_through_before(request: Requested, ports: Ports) -> bool:
    """Whether an earlier delivery of a request in a conversation was accepted.

    Looked for behind the lock: of a response that had ended by then, nobody else would give it back.
    """
    conversation_id = request.spec.conversation
    if conversation_id is None or ports.clock_ms() - request.created_ms <= _PROMPT_MS:
        return False
    told = await ports.told_of(request.response_id)
    if told.fold.terminal is not None:
        await finish(ports, request.tenant, conversation_id, told)
    return told.fold.accepted is not None


async def _outcome(asked: ContextRequested, ports: Ports) -> Requested | Refusal | None:
    request = asked.request
    if request.deadline_ms <= ports.clock_ms():
        return Refusal(500, "server_error", "The request's deadline passed before its context could be assembled.")
    if request.spec.conversation is None:
        return _fitting(await assembled(request, ports, base=asked.base))
    return await _in_conversation(request, request.spec.conversation, ports)


async def _in_conversation(request: Requested, conversation_id: str, ports: Ports) -> Requested | Refusal | None:
    """The request behind all that was said in its conversation, whose lock it then holds; no lock if refused.

    None if its answer stands there already: a rebalance delivers a second time what it finds uncommitted, at once.
    """
    holder = Holder(request.response_id, request.deadline_ms)
    taken = await take(ports, request.tenant, conversation_id, holder, until_ms=_until_ms(request, ports))
    if taken is None:
        return not_found("Conversation", conversation_id, "conversation")
    if taken.holder is None or taken.holder.response_id != request.response_id:
        return LOCKED
    outcome: Requested | Refusal | None = None
    try:
        if not await _is_answered(request, conversation_id, ports):
            outcome = _fitting(await assembled(request, ports))
    except TRANSIENT:
        raise  # it is asked again, and holds the lock until then
    except Exception:
        await ports.store.release(request.tenant, conversation_id, request.response_id)
        raise
    if not isinstance(outcome, Requested):
        await ports.store.release(request.tenant, conversation_id, request.response_id)
    return outcome


async def _is_answered(request: Requested, conversation_id: str, ports: Ports) -> bool:
    answer_id = parse_response_id(request.response_id).message_id
    return isinstance(await ports.store.item(request.tenant, conversation_id, answer_id), Item)


def _fitting(outcome: Requested | PromptTooLong | Refusal) -> Requested | Refusal:
    return too_long(outcome) if isinstance(outcome, PromptTooLong) else outcome


def too_long(prompt: PromptTooLong) -> Refusal:
    """What its client is told."""
    return Refusal(400, "context_length_exceeded", str(prompt), "input")


async def assembled(
    request: Requested, ports: Ports, *, base: str | None = None
) -> Requested | PromptTooLong | Refusal:
    """The request with its context, and its prompt counted: see `ContextRequested`.

    Raises StoreUnavailableError, LogError.
    """
    past = await _past(request, base or request.spec.previous_response_id, ports)
    if isinstance(past, Refusal):
        return past
    try:
        # Off the loop: counting a full window takes milliseconds, with truncation several times as many.
        begun = msgspec.structs.replace(request, chain=past.chain)
        return await asyncio.to_thread(with_context, begun, past.turns, ports.counter)
    except ChatTemplateError as error:
        return Refusal(400, "invalid_prompt", str(error), "input")


@dataclass(frozen=True, slots=True)
class _Past:
    """What was said before, turn by turn; `chain` names the first response of the chain, as far as it is known."""

    turns: Sequence[Turn]
    chain: str | None = None


async def _past(request: Requested, parent: str | None, ports: Ports) -> _Past | Refusal:
    if request.spec.conversation is not None:
        return await _said_in(request.tenant, request.spec.conversation, ports)
    turns = await _turns(request, parent, ports)
    if isinstance(turns, Refusal):
        return turns
    chain = turns[0].accepted.response_id if turns else None
    return _Past([turn_messages(turn.accepted, turn.terminal) for turn in turns], chain)


async def _said_in(tenant: str, conversation_id: str, ports: Ports) -> _Past | Refusal:
    """The conversation's newest items: more than a window of them never fit."""
    window = ports.counter.context_window
    page = await ports.store.items(
        tenant, conversation_id, limit=window, order="desc", max_bytes=window * _BYTES_PER_TOKEN
    )
    if isinstance(page, NotThere):
        return not_found("Conversation", conversation_id, "conversation")
    return _Past(turns_of(page.items[::-1]))


async def _turns(request: Requested, wanted: str | None, ports: Ports) -> list[StoredResponse] | Refusal:
    """All turns until the end of `wanted`, oldest first, from as many places as they are found in.

    Every turn takes at least one token, so more than a window of them is never of use.
    """
    until_ms = _until_ms(request, ports)
    limit = ports.counter.context_window
    turns: list[StoredResponse] = []
    while wanted is not None and len(turns) < limit:
        found = await find_chain(ports, request.tenant, wanted, limit=limit - len(turns), until_ms=until_ms)
        if isinstance(found, Missing):
            return _missing(wanted, found)
        if isinstance(found[-1].terminal, Failed):
            return _missing(wanted, Missing.UNKNOWN)
        turns = found + turns
        wanted = found[0].previous_response_id
    return turns


def _until_ms(request: Requested, ports: Ports) -> int:
    """How long to wait for a response that still runs (unix ms)."""
    return min(request.deadline_ms, ports.clock_ms() + int(ports.parent_wait_s * 1000))


def _missing(response_id: str, why: Missing) -> Refusal:
    if why is Missing.RUNNING:
        message = f"Previous response with id '{response_id}' is still in progress: wait for it to end, or cancel it."
        return Refusal(400, "previous_response_in_progress", message, _PARENT)
    message = f"Previous response with id '{response_id}' not found."
    return Refusal(400, "previous_response_not_found", message, _PARENT)
