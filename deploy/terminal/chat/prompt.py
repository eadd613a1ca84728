"""Reading what the person types: history, several lines by paste or Alt-Enter, Ctrl-C and Ctrl-D as in a shell."""

from prompt_toolkit import PromptSession
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

_MARK = "> "
_CONTINUED = "  "


class Prompt:
    """The line editor. What is typed is kept for this session only, in memory."""

    def __init__(self) -> None:
        self._session: PromptSession[str] = PromptSession(
            _MARK,
            multiline=True,
            prompt_continuation=_CONTINUED,
            key_bindings=_bindings(),
            history=InMemoryHistory(),
            output=create_output(always_prefer_tty=True),  # standard output may be a pipe
        )

    async def read(self) -> str:
        """What was typed, without surrounding space. Raises EOFError (Ctrl-D) and KeyboardInterrupt (Ctrl-C)."""
        return (await self._session.prompt_async()).strip()


def _bindings() -> KeyBindings:
    """Enter sends; Alt-Enter begins another line. A pasted text keeps its lines.

    Enter typed before the editor is up comes as Ctrl-J: until then the terminal makes a line feed of it.
    """
    bindings = KeyBindings()

    @bindings.add("enter")
    @bindings.add("c-j")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def another_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
