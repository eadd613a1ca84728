"""The Response object: every key that OpenAI's clients know, each a pure function of the log."""

from collections.abc import Sequence
from typing import Any

from services.gateway.projections.logprobs import token_logprobs
from services.gateway.projections.moderation import response_moderation
from shared.ids import parse_response_id
from shared.records import (
    Accepted,
    AnyTerminal,
    Cancelled,
    Completed,
    Failed,
    Incomplete,
    Sampling,
    TokenLogprob,
    Usage,
)

_CODES = frozenset({"server_error", "rate_limit_exceeded"})
_STATUS: dict[type[AnyTerminal], str] = {
    Completed: "completed",
    Incomplete: "incomplete",
    Failed: "failed",
    Cancelled: "cancelled",
}


def response_object(
    accepted: Accepted, terminal: AnyTerminal | None, text: str, logprobs: Sequence[TokenLogprob] = ()
) -> dict[str, Any]:
    """The Response after `accepted`, with the public `text` so far and, once it ended, its `terminal`.

    Times are whole seconds of the records' own clocks, so that every replica answers alike. Keys of OpenAI's that
    nothing here can fill are null.
    """
    moderation = response_moderation(accepted, terminal)
    return {**_outcome(accepted, terminal, text, logprobs), **_asked(accepted), **_NULL, "moderation": moderation}


def _outcome(
    accepted: Accepted, terminal: AnyTerminal | None, text: str, logprobs: Sequence[TokenLogprob]
) -> dict[str, Any]:
    return {
        "id": accepted.response_id,
        "object": "response",
        "created_at": accepted.created_ms // 1000,
        "completed_at": terminal.finished_ms // 1000 if isinstance(terminal, Completed) else None,
        "status": "in_progress" if terminal is None else _STATUS[type(terminal)],
        "model": accepted.spec.model,
        "output": output_items(accepted, terminal, text, logprobs),
        "error": _error(terminal) if isinstance(terminal, Failed) else None,
        "incomplete_details": {"reason": terminal.reason} if isinstance(terminal, Incomplete) else None,
        "usage": None if terminal is None else _usage(terminal.usage),
    }


def _error(failed: Failed) -> dict[str, Any]:
    """OpenAI's clients know a fixed list of codes here; what a code of our own would say, the message says."""
    return {"code": failed.code if failed.code in _CODES else "server_error", "message": failed.message}


def _asked(accepted: Accepted) -> dict[str, Any]:
    """What the client asked for, as it was understood."""
    spec, sampling = accepted.spec, accepted.spec.sampling
    return {
        "instructions": spec.instructions,
        "metadata": spec.metadata,
        "previous_response_id": spec.previous_response_id,
        "conversation": {"id": spec.conversation} if spec.conversation is not None else None,
        "parallel_tool_calls": spec.parallel_tool_calls,
        "tools": [],
        "tool_choice": spec.tool_choice,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "top_logprobs": spec.top_logprobs,
        "max_output_tokens": sampling.max_output_tokens,
        "max_tool_calls": spec.max_tool_calls,
        "text": {"format": {"type": "text"}, "verbosity": spec.verbosity or "medium"},
        "truncation": spec.truncation,
        "reasoning": {"effort": None, "summary": None},
        "store": spec.store,
        "background": spec.background,
        "service_tier": spec.service_tier,
        "safety_identifier": spec.safety_identifier,
        "prompt_cache_key": spec.prompt_cache_key,
        "prompt_cache_retention": spec.prompt_cache_retention,
        "user": spec.user,
        **_extensions(sampling),
    }


def _extensions(sampling: Sampling) -> dict[str, Any]:
    """What OpenAI's Response does not know stands in it only where it was asked for."""
    asked = {"stop": sampling.stop or None, "seed": sampling.seed, "top_k": sampling.top_k}
    return {name: value for name, value in asked.items() if value is not None}


_NULL: dict[str, Any] = dict.fromkeys(
    (
        "access_programs",
        "image",
        "input_transformations",
        "moderation",
        "prompt",
        "prompt_cache_diagnostics",
        "prompt_cache_options",
        "tool_usage",
    )
)


def output_items(
    accepted: Accepted, terminal: AnyTerminal | None, text: str, logprobs: Sequence[TokenLogprob] = ()
) -> list[dict[str, Any]]:
    """The one message of a response, or nothing as long as it has none (`has_message`)."""
    if not has_message(accepted, terminal, text):
        return []
    message_id = parse_response_id(accepted.response_id).message_id
    return [message_item(message_id, item_status(terminal), [text_part(text, logprobs)])]


def has_message(accepted: Accepted, terminal: AnyTerminal | None, text: str) -> bool:
    """Whether a message is part of the output: from its first text on; what ended orderly has one, even if empty,
    unless it was asked to say nothing."""
    return bool(text) or (accepted.spec.generate and isinstance(terminal, Completed | Incomplete))


def item_status(terminal: AnyTerminal | None) -> str:
    """A message's status: `incomplete` whenever its response ended other than by itself."""
    if terminal is None:
        return "in_progress"
    return "completed" if isinstance(terminal, Completed) else "incomplete"


def message_item(message_id: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    """An output item of type `message`."""
    return {"id": message_id, "type": "message", "status": status, "role": "assistant", "content": content}


def text_part(text: str, logprobs: Sequence[TokenLogprob] = ()) -> dict[str, Any]:
    """A content part of type `output_text`."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": token_logprobs(logprobs)}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
