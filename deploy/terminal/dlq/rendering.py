"""Dead letters as text. Pure."""

import json
from typing import Any

from deploy.terminal.command import clock_time, printable, printable_json, shortened
from deploy.terminal.dlq.letters import Letter
from deploy.terminal.dlq.rules import note, why_not

_TRACE_PARTS = 4


def state(letter: Letter) -> str:
    """What became of it: `aside`, `sent back`, or `aside again` where it was put aside after it had been sent back."""
    if letter.sent_back:
        return "sent back" if letter.times == 1 else f"sent back {letter.times} times"
    return "aside" if not letter.times else f"aside again ({letter.times})"


def render_list(letters: list[Letter], width: int, *, content: bool = False) -> list[str]:
    """Two lines per letter: what it is, and why it lies there."""
    if not letters:
        return ["no dead letters"]
    names = max(len(letter.name) for letter in letters)
    lines = []
    for letter in letters:
        body = letter.body
        what = letter.kind or "?"
        who = printable(body.service)
        lines.append(f"{letter.name:<{names}}  {clock_time(letter.at_ms)}  {who:<10}  {what}  {state(letter)}")
        lines.append("  " + shortened(body.error, width - 2))
        if content:
            lines.append("  " + printable(body.value))
    return lines


def render_letter(letter: Letter, *, content: bool = False) -> list[str]:
    """Everything about one letter, and whether it can be sent back."""
    body, refusal = letter.body, why_not(letter)
    rows = {
        "put aside": f"{clock_time(letter.at_ms)} by {printable(body.service)}, after {_attempts(body.attempts)}",
        "error": printable(body.error),
        "origin": _origin(letter),
        "key": printable(body.key or "-"),
        "record": f"{letter.kind or 'of unknown type'}, {len(body.value.encode()):,} bytes",
        "trace": printable(_trace_id(body.headers) or "-"),
        "headers": ("\n" + " " * 15).join(
            shortened(f"{name}={value}", 100) for name, value in sorted(body.headers.items())
        ),
        "state": state(letter),
        **{f"sent back {each.times}": f"to {each.partition}@{each.offset}" for each in letter.sent_back},
        "redrive": f"no: {refusal}" if refusal else "yes" + (f": {about}" if (about := note(letter)) else ""),
    }
    lines = [letter.name, *(f"  {name:<12} {value}" for name, value in rows.items())]
    if content:
        lines += ["  content", printable(body.value)]
    return lines


def as_json(letter: Letter, *, content: bool = False) -> str:
    """The same as one JSON object."""
    body, refusal = letter.body, why_not(letter)
    found: dict[str, Any] = {
        "name": letter.name,
        "put_aside_ms": letter.at_ms,
        "service": body.service,
        "error": body.error,
        "attempts": body.attempts,
        "origin": {"topic": body.origin_topic, "partition": body.origin_partition, "offset": body.origin_offset},
        "key": body.key,
        "record": letter.kind,
        "trace_id": _trace_id(body.headers),
        "headers": body.headers,
        "shortened": body.shortened,
        "state": state(letter),
        "sent_back": [{"partition": e.partition, "offset": e.offset, "times": e.times} for e in letter.sent_back],
        "can_be_sent_back": refusal is None,
        "why_not": refusal,
    }
    return printable_json(json.dumps({**found, "content": body.value} if content else found, ensure_ascii=False))


def _origin(letter: Letter) -> str:
    topic, partition, offset = letter.origin
    return f"{topic}/{partition}@{offset}" if partition >= 0 else f"{topic}, no record: work that was given up"


def _attempts(number: int) -> str:
    return "1 attempt" if number == 1 else f"{number} attempts"


def _trace_id(headers: dict[str, str]) -> str | None:
    parts = headers.get("traceparent", "").split("-")
    return parts[1] if len(parts) == _TRACE_PARTS else None
