"""Prompts and answers on spans, where CHATMESH_TRACE_CONTENT asks for them. Only what was screened may come here.

The form is that of OpenTelemetry's GenAI conventions: `gen_ai.input.messages` and `gen_ai.output.messages`, JSON by
https://github.com/open-telemetry/semantic-conventions-genai (gen-ai-input-messages.json, gen-ai-output-messages.json).
"""

from collections.abc import Iterable

import msgspec
from opentelemetry.sdk.trace import Span as ReadableSpan
from opentelemetry.trace import Span

from shared.records import AnyTerminal, Completed, Incomplete, Message
from shared.telemetry import names


def describe_content(span: Span, prompt: Iterable[Message], terminal: AnyTerminal) -> None:
    """Put an accepted prompt and the public text of its answer on the span, if its process is to capture content."""
    if isinstance(span, ReadableSpan) and span.is_recording() and span.resource.attributes.get(names.CAPTURES_CONTENT):
        span.set_attributes(
            {names.INPUT_MESSAGES: input_messages(prompt), names.OUTPUT_MESSAGES: output_messages(terminal)}
        )


def input_messages(prompt: Iterable[Message]) -> str:
    """The turns, oldest first."""
    return _json([{"role": turn.role, "parts": [_text(part) for part in turn.parts]} for turn in prompt])


def output_messages(terminal: AnyTerminal) -> str:
    """The answer as the client was told it, whole or in part."""
    return _json([{"role": "assistant", "parts": [_text(terminal.text)], "finish_reason": _finish_reason(terminal)}])


def _finish_reason(terminal: AnyTerminal) -> str:
    match terminal:
        case Completed():
            return "stop"
        case Incomplete(reason="content_filter"):
            return "content_filter"
        case Incomplete():
            return "length"
        case _:
            return "error"


def _text(content: str) -> dict[str, str]:
    return {"type": "text", "content": content}


def _json(messages: list[dict[str, object]]) -> str:
    return msgspec.json.encode(messages).decode()
