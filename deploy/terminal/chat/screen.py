"""What the person sees: answers on standard output and nothing else there, everything about them on standard error."""

import sys
from typing import TextIO

from rich.console import Console

from deploy.terminal.chat.answer import End
from deploy.terminal.command import printable


class Screen:
    """Writes as it comes. On a terminal, control characters in an answer are spelled out; a pipe gets it as it is."""

    def __init__(self, out: TextIO = sys.stdout, err: TextIO = sys.stderr) -> None:
        self._out = out
        self._raw = not out.isatty()
        self._shared = out.isatty() and err.isatty()  # then notes stand among the text
        self._aside = Console(file=err, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._waits = self._aside.status("", spinner="dots", spinner_style="dim")
        self._open = False  # a line of the answer is not ended yet

    def begin_answer(self) -> None:
        """A terminal shows that something is waited for, until there is something to show."""
        if self._shared:
            self._waits.start()

    def say(self, text: str) -> None:
        """A piece of an answer."""
        self._waits.stop()
        self._out.write(text if self._raw else printable(text))
        self._out.flush()
        self._open = not text.endswith("\n")

    def end_answer(self) -> None:
        """The answer has ended: so does its line."""
        self._waits.stop()
        if self._open:
            self._out.write("\n")
            self._out.flush()
        self._open = False

    def note(self, text: str) -> None:
        """Something about the chat, discreetly. Among an answer it stands on a line of its own."""
        self._waits.stop()
        if self._open and self._shared:
            self._aside.print()
        self._aside.print(printable(text), style="dim")

    def error(self, text: str) -> None:
        """Something that went wrong."""
        self._waits.stop()
        self._aside.print(printable(f"error: {text}"), style="red")


def describe_end(end: End, elapsed_s: float, reconnects: int) -> str:
    """`34 tokens in 1.2 s (prompt: 12)`: what it cost, why it is not complete, how often its connection broke."""
    parts = []
    if end.usage is not None:
        cached = f", {end.usage.cached:,} of them cached" if end.usage.cached else ""
        parts.append(f"{end.usage.output:,} tokens in {elapsed_s:.1f} s (prompt: {end.usage.input:,}{cached})")
    if end.outcome != "completed":
        parts.append(end.outcome + (f": {_REASONS.get(end.reason, end.reason)}" if end.reason else ""))
    if reconnects:
        parts.append("reconnected once" if reconnects == 1 else f"reconnected {reconnects} times")
    return " · ".join(parts)


_REASONS = {
    "max_output_tokens": "the token limit is reached",
    "content_filter": "moderation cut it",
}
