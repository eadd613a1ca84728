"""The Response object: every key that OpenAI's clients know, each a pure function of the log."""

from typing import Any

from shared.ids import parse_response_id
from shared.records import Accepted, AnyTerminal, Cancelled, Completed, Failed, Incomplete, Usage

_STATUS: dict[type[AnyTerminal], str] = {
    Completed: "completed",
    Incomplete: "incomplete",
    Failed: "failed",
    Cancelled: "cancelled",
}


def response_object(accepted: Accepted, terminal: AnyTerminal | None, text: str) -> dict[str, Any]:
    """The Response after `accepted`, with the public `text` so far and, once it ended, its `terminal`.

    Times are whole seconds of the records' own clocks, so that every replica answers alike.
    """
    spec = accepted.spec
    return {
        "id": accepted.response_id,
        "object": "response",
        "created_at": accepted.created_ms // 1000,
        "completed_at": terminal.finished_ms // 1000 if isinstance(terminal, Completed) else None,
        "status": "in_progress" if terminal is None else _STATUS[type(terminal)],
        "model": spec.model,
        "output": output_items(accepted.response_id, terminal, text),
        "error": {"code": terminal.code, "message": terminal.message} if isinstance(terminal, Failed) else None,
        "incomplete_details": {"reason": terminal.reason} if isinstance(terminal, Incomplete) else None,
        "instructions": spec.instructions,
        "metadata": spec.metadata,
        "previous_response_id": spec.previous_response_id,
        "conversation": {"id": spec.conversation} if spec.conversation is not None else None,
        "parallel_tool_calls": True,
        "tools": [],
        "tool_choice": "auto",
        "temperature": spec.sampling.temperature,
        "top_p": spec.sampling.top_p,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "top_logprobs": 0,
        "max_output_tokens": spec.sampling.max_output_tokens,
        "max_tool_calls": None,
        "text": {"format": {"type": "text"}},
        "truncation": spec.truncation,
        "reasoning": {"effort": None, "summary": None},
        "store": spec.store,
        "background": spec.background,
        "service_tier": spec.service_tier,
        "safety_identifier": spec.safety_identifier,
        "prompt_cache_key": spec.prompt_cache_key,
        "user": spec.user,
        "usage": None if terminal is None else _usage(terminal.usage),
    }


def output_items(response_id: str, terminal: AnyTerminal | None, text: str) -> list[dict[str, Any]]:
    """The one message of a response, or nothing as long as it has none (`has_message`)."""
    if not has_message(terminal, text):
        return []
    return [message_item(parse_response_id(response_id).message_id, item_status(terminal), [text_part(text)])]


def has_message(terminal: AnyTerminal | None, text: str) -> bool:
    """Whether a message is part of the output: from its first text on; what ended orderly has one, even if empty."""
    return bool(text) or isinstance(terminal, Completed | Incomplete)


def item_status(terminal: AnyTerminal | None) -> str:
    """A message's status: `incomplete` whenever its response ended other than by itself."""
    if terminal is None:
        return "in_progress"
    return "completed" if isinstance(terminal, Completed) else "incomplete"


def message_item(message_id: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    """An output item of type `message`."""
    return {"id": message_id, "type": "message", "status": status, "role": "assistant", "content": content}


def text_part(text: str) -> dict[str, Any]:
    """A content part of type `output_text`."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total_tokens,
    }
