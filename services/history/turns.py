"""`context.requested` in, `responses.journal` or a rejection on `gateway.replies` out (DESIGN 4.1)."""

import asyncio
import logging
from dataclasses import dataclass

from services.history.context import PromptTooLong, with_context
from services.history.lookup import Missing, find_chain
from services.history.ports import Outgoing, Ports
from services.history.replies import rejection
from services.history.stores.port import StoredResponse
from shared.chat import ChatTemplateError
from shared.ids import parse_response_id
from shared.records import Accepted, ContextRequested, Failed, ReplyAddress, Requested
from shared.topics import EVENTS, JOURNAL
from shared.turns import turn_messages

log = logging.getLogger(__name__)

_PARENT = "previous_response_id"
_PROMPT_MS = 1_000
"""A request this young is no second delivery: no replica is given up for dead, and no group rebalanced, in less."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the request cannot enter the journal, as the client will read it."""

    status: int
    code: str
    message: str
    param: str | None = None


async def request_with_context(asked: ContextRequested, ports: Ports) -> list[Outgoing]:
    """Append the request with its context to the journal, or tell its gateway why not.

    A redelivered request is appended again: the journal's fold ignores the second (DESIGN 5). One so late that the
    response may have ended, and its owner may have changed since, is looked for in the public log first.
    """
    outcome = await _outcome(asked, ports)
    request = asked.request
    if isinstance(outcome, Requested):
        if ports.clock_ms() - request.created_ms > _PROMPT_MS and await _accepted_before(request, ports):
            log.info("%s was accepted before: its request was delivered twice", request.response_id)
            return []
        return [Outgoing(JOURNAL, outcome)]
    if request.reply_to is None:
        log.warning("%s refused, and nobody waits for the reason: %s", request.response_id, outcome.message)
        return []
    return [refused(request.reply_to, request.response_id, outcome)]


async def _accepted_before(request: Requested, ports: Ports) -> bool:
    """Whether an earlier delivery came through. A partition's owner forgets a response that has ended."""
    partition = parse_response_id(request.response_id).partition
    found = await ports.log.read(EVENTS, partition, {request.response_id}, since_ms=request.created_ms)
    return any(isinstance(envelope.record, Accepted) for envelope in found.records)


async def _outcome(asked: ContextRequested, ports: Ports) -> Requested | Refusal:
    outcome = await assembled(asked.request, ports, base=asked.base)
    if isinstance(outcome, PromptTooLong):
        return too_long(outcome)
    return outcome


def too_long(prompt: PromptTooLong) -> Refusal:
    """What its client is told."""
    return Refusal(400, "context_length_exceeded", str(prompt), "input")


def refused(to: ReplyAddress, correlation_id: str, why: Refusal) -> Outgoing:
    """`why` on its way to the gateway that waits for it."""
    return rejection(to, correlation_id, why.status, why.code, why.message, why.param)


async def assembled(
    request: Requested, ports: Ports, *, base: str | None = None
) -> Requested | PromptTooLong | Refusal:
    """The request with its context, and its prompt counted: see `ContextRequested`.

    Raises StoreUnavailableError, LogError.
    """
    if request.deadline_ms <= ports.clock_ms():
        return Refusal(500, "server_error", "The request's deadline passed before its context could be assembled.")
    if request.spec.conversation is not None:
        return Refusal(404, "conversation_not_found", _not_found("Conversation", request.spec.conversation))
    turns = await _turns(request, base or request.spec.previous_response_id, ports)
    if isinstance(turns, Refusal):
        return turns
    try:
        # Off the loop: counting a full window takes milliseconds, with truncation several times as many.
        said = [turn_messages(turn.accepted, turn.terminal) for turn in turns]
        return await asyncio.to_thread(with_context, request, said, ports.counter)
    except ChatTemplateError as error:
        return Refusal(400, "invalid_prompt", str(error), "input")


async def _turns(request: Requested, wanted: str | None, ports: Ports) -> list[StoredResponse] | Refusal:
    """All turns until the end of `wanted`, oldest first, from as many places as they are found in.

    Every turn takes at least one token, so more than a window of them is never of use.
    """
    until_ms = min(request.deadline_ms, ports.clock_ms() + int(ports.parent_wait_s * 1000))
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


def _missing(response_id: str, why: Missing) -> Refusal:
    if why is Missing.RUNNING:
        message = f"Previous response with id '{response_id}' is still in progress: wait for it to end, or cancel it."
        return Refusal(400, "previous_response_in_progress", message, _PARENT)
    return Refusal(400, "previous_response_not_found", _not_found("Previous response", response_id), _PARENT)


def _not_found(what: str, identity: str) -> str:
    return f"{what} with id '{identity}' not found."
