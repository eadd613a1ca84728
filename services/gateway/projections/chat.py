"""The event log in the dialect of Chat Completions. Pure, Sans-I/O.

One response is one choice of a completion:

    accepted                 the chunk with the role
    delta                    a chunk with content
    terminal                 an empty delta with `finish_reason`; none if the response was cancelled or failed

A choice's part of a chunk says nothing of the completion around it, so that it is encoded once, whoever reads it and
how; `ChatFrames` puts it into the chunks of one completion.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from services.gateway.projections.client_event import on_one_line
from services.gateway.projections.dialect import Dialect
from services.gateway.projections.logprobs import token_logprobs
from services.gateway.projections.moderation import completion_moderation
from shared.folds import EventFold
from shared.folds.events import Counted
from shared.ids import ResponseId, parse_response_id
from shared.records import (
    Accepted,
    AnyTerminal,
    Cancelled,
    Completed,
    Deleted,
    Delta,
    Failed,
    Incomplete,
    TokenLogprob,
    Usage,
)

_encoder = msgspec.json.Encoder()

_FINISH_OF_REASON = {"max_output_tokens": "length", "content_filter": "content_filter"}
_NULL = b"null"
_DONE = b"data: [DONE]\n\n"


class ChoicePart(msgspec.Struct, frozen=True, gc=False):
    """A chunk's choice without its index and braces: `"delta":…,"logprobs":…,"finish_reason":…`."""

    json: bytes


class ChatProjection:
    """One response as a choice; `fold` has counted what `project` is given."""

    def __init__(self, _: ResponseId, fold: EventFold) -> None:
        self._fold = fold

    def project(self, counted: Counted) -> list[ChoicePart]:
        """The parts that a record adds which the fold has counted just now."""
        match counted:
            case Deleted():
                return []
            case Accepted():
                return [_part({"role": "assistant", "content": "", "refusal": None})]
            case Delta():
                return self._said(counted.text, counted.logprobs)
            case _:
                return [*self._rest(counted), *_finish(counted)]

    def _rest(self, terminal: AnyTerminal) -> list[ChoicePart]:
        """What the terminal, which is the authority, has beyond the deltas (as in the Responses dialect)."""
        said = self._fold.text
        if not terminal.text.startswith(said):
            return []
        return self._said(terminal.text[len(said) :], terminal.logprobs[len(self._fold.logprobs) :])

    def _said(self, text: str, logprobs: Sequence[TokenLogprob]) -> list[ChoicePart]:
        if not text:  # a masked piece may leave nothing to say
            return []
        encoded = _encoder.encode(_logprobs(logprobs)) if _wants_logprobs(self._fold.accepted) else _NULL
        content = _encoder.encode(text)
        return [ChoicePart(b'"delta":{"content":%b},"logprobs":%b,"finish_reason":null' % (content, encoded))]


CHAT = Dialect("chat", ChatProjection)


class ChatFrames:
    """The chunks of one completion as server-sent events. `first`: the response of its first choice, whose id and
    time are the completion's."""

    def __init__(self, first: Accepted, *, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._head = _encoder.encode(_completion_head(first, "chat.completion.chunk"))[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def chunk(self, index: int, part: ChoicePart) -> bytes:
        """A part of the choice with this index."""
        return b'data: %b{"index":%d,%b}%b' % (self._head, index, on_one_line(part.json), self._tail)

    def end(self, choices: Sequence[tuple[Accepted, AnyTerminal]]) -> list[bytes]:
        """What follows once every choice has ended, none of them as failed: chunks without choices."""
        last: list[dict[str, Any]] = []
        if (moderation := completion_moderation(choices)) is not None:
            last.append({**({"usage": None} if self._include_usage else {}), "moderation": moderation})
        if self._include_usage:
            last.append({"usage": _usage([terminal for _, terminal in choices])})
        return [*(b"data: %b],%b\n\n" % (self._head, on_one_line(_encoder.encode(chunk)[1:])) for chunk in last), _DONE]


def error_frame(failed: Failed) -> bytes:
    """How a stream tells that a choice failed: nothing follows, not even `[DONE]`."""
    error = {"message": failed.message, "type": "server_error", "param": None, "code": failed.code}
    return b"data: %b\n\n" % on_one_line(_encoder.encode({"error": error}))


def completion_object(choices: Sequence[tuple[Accepted, AnyTerminal]]) -> dict[str, Any]:
    """The whole completion, of the responses of its choices in order."""
    first = choices[0][0]
    completion = _completion_head(first, "chat.completion")
    completion["choices"] = [_choice(index, *response) for index, response in enumerate(choices)]
    completion["usage"] = _usage([terminal for _, terminal in choices])
    moderation = completion_moderation(choices)
    return completion if moderation is None else {**completion, "moderation": moderation}


def _completion_head(first: Accepted, kind: str) -> dict[str, Any]:
    """What chunks and the whole completion have in common. Times are whole seconds of the record's own clock."""
    return {
        "id": parse_response_id(first.response_id).completion_id,
        "object": kind,
        "created": first.created_ms // 1000,
        "model": first.spec.model,
        "service_tier": first.spec.service_tier,
        # The log does not tell which revision answers, and another one may take over: a constant would be a promise.
        "system_fingerprint": None,
    }


def _choice(index: int, accepted: Accepted, terminal: AnyTerminal) -> dict[str, Any]:
    """A whole choice; a cancelled one ends as if it had stopped there."""
    return {
        "index": index,
        "message": {"role": "assistant", "content": terminal.text, "refusal": None, "annotations": []},
        "logprobs": _logprobs(terminal.logprobs) if _wants_logprobs(accepted) else None,
        "finish_reason": _finish_reason(terminal) or "stop",
    }


def _finish(terminal: AnyTerminal) -> Iterator[ChoicePart]:
    reason = _finish_reason(terminal)
    if reason is not None:
        yield _part({}, finish_reason=reason)


def _finish_reason(terminal: AnyTerminal) -> str | None:
    match terminal:
        case Completed():
            return "stop"
        case Incomplete():
            return _FINISH_OF_REASON[terminal.reason]
        case Cancelled() | Failed():
            return None


def _part(delta: dict[str, Any], finish_reason: str | None = None) -> ChoicePart:
    choice = {"delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return ChoicePart(_encoder.encode(choice)[1:-1])


def _wants_logprobs(accepted: Accepted | None) -> bool:
    return accepted is not None and accepted.spec.sampling.logprobs is not None


def _logprobs(said: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": token_logprobs(said), "refusal": None}


def _usage(terminals: Sequence[AnyTerminal]) -> dict[str, Any]:
    """The choices share one prompt, which counts once."""
    prompt = terminals[0].usage
    completion_tokens = sum(terminal.usage.output_tokens for terminal in terminals)
    total = Usage(input_tokens=prompt.input_tokens, output_tokens=completion_tokens)
    return {
        "prompt_tokens": total.input_tokens,
        "completion_tokens": total.output_tokens,
        "total_tokens": total.total_tokens,
        "prompt_tokens_details": {"cached_tokens": prompt.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
