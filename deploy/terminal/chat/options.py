"""What can be asked of `make chat` on the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deploy.local.arguments import seconds

_SENT = ("instructions", "max_output_tokens", "temperature")


@dataclass(frozen=True)
class Options:
    """`message` None: from standard input. `fields` go into every request as they are."""

    base_urls: list[str]
    message: str | None
    model: str | None
    previous_response_id: str | None
    patience_s: float
    fields: dict[str, Any]


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Ends the process with status 2 and a usage message for what nobody can ask."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.terminal.chat",
        description="Chat with a mesh over a WebSocket, by OpenAI's SDK. `make chat` is the same command. At a "
        "terminal it converses; with --message, or with text on standard input, it prints one answer and ends.",
        epilog="OPENAI_API_KEY: one of the mesh's keys, where it has any. OPENAI_BASE_URL: as --base-url. Neither is "
        "needed beside `make run` in the same folder.",
    )
    parser.add_argument(
        "--base-url",
        action="append",
        default=[],
        metavar="URL",
        help="a gateway; several times, or several with commas: where one dies, the answer goes on at the next",
    )
    parser.add_argument("--message", metavar="TEXT", help="ask this, print the answer, and end")
    parser.add_argument("--model", help="the model to ask (the first that the mesh serves)")
    parser.add_argument("--instructions", metavar="TEXT", help="what the model is told before each turn")
    parser.add_argument("--max-output-tokens", type=int, metavar="N", help="the most tokens of an answer")
    parser.add_argument("--temperature", type=float, metavar="X", help="0: always the likeliest token")
    parser.add_argument("--previous-response-id", metavar="resp_…", help="go on from this response")
    parser.add_argument(
        "--patience",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="for how long gateways are tried when connections break and nothing new comes (60)",
    )
    found = parser.parse_args(arguments)
    given = {name: getattr(found, name) for name in _SENT if getattr(found, name) is not None}
    return Options(found.base_url, found.message, found.model, found.previous_response_id, found.patience, given)
