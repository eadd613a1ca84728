"""`python -m deploy.terminal.chat`: a streaming chat in the terminal."""

import functools
import os
import sys
from collections.abc import Sequence

from deploy.local.access import api_key
from deploy.local.announced import running_address
from deploy.local.settings import LocalSettings
from deploy.terminal.chat.conversation import Conversation
from deploy.terminal.chat.gateways import ChatError, Gateways, base_urls
from deploy.terminal.chat.line import Line
from deploy.terminal.chat.options import Options, parse
from deploy.terminal.chat.screen import Screen
from deploy.terminal.command import at_a_terminal, blocking, run
from shared.settings import load_settings

_CANCELLED_STATUS = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 if a single answer failed or was refused, or was cancelled by others, or nobody answers; 130 if
    it was cancelled here."""
    options = parse(arguments)
    return run(functools.partial(_main, options))


async def _main(options: Options) -> int:
    of_run = running_address(load_settings(LocalSettings).data_dir)
    gateways = Gateways(base_urls(options.base_urls, os.environ, of_run), api_key(os.environ))
    screen = Screen()
    line = Line(gateways, options.patience_s, screen.note)
    try:
        model = options.model or await _first_model(gateways)
        conversation = Conversation(line, screen, model, options.previous_response_id, options.fields)
        message = await _message(options)
        if message is not None:
            return await one_shot(conversation, message)
        screen.note(f"{model} at {gateways.url}; /help says what else there is")
        from deploy.terminal.chat.prompt import Prompt  # half a second, which a pipe need not wait for

        await conversation.converse(Prompt().read)
        return 0
    finally:
        await line.close()
        await gateways.close()


async def _first_model(gateways: Gateways) -> str:
    models = await gateways.models()
    if not models:
        raise ChatError(f"no worker is ready behind {gateways.url}: the mesh serves no model yet")
    return models[0]


async def _message(options: Options) -> str | None:
    """The one thing to ask, None if the person is to be asked for it. Raises ChatError where it is empty."""
    if options.message is None and at_a_terminal():
        return None
    message = await blocking(_read_all) if options.message is None else options.message
    if not message.strip():
        raise ChatError("there is nothing to ask: the message is empty")
    return message.strip()


def _read_all() -> str:
    if sys.stdin is None:
        raise ChatError("there is nothing to ask: standard input is closed")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise ChatError(f"what standard input holds is no text in UTF-8: {error.reason}") from error


async def one_shot(conversation: Conversation, message: str) -> int:
    """Ask once; the exit status."""
    end = await conversation.turn(message)
    if end.outcome == "cancelled":
        return _CANCELLED_STATUS
    return 0 if end.is_well else 1


if __name__ == "__main__":
    sys.exit(main())
