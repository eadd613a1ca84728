"""What can be asked of the report on the command line."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.moderation.report.summary import did_something
from shared.records import Verdict
from shared.settings import MeshSettings, describe_settings

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SETTINGS = ("KAFKA_BOOTSTRAP_SERVERS", "CHATMESH_NAMESPACE", "CHATMESH_REQUEST_TIMEOUT_MS")


@dataclass(frozen=True)
class Options:
    """`category` or `action`: list those verdicts, one a line, instead of a summary. `follow`: then go on with what
    comes; without them, with what was found."""

    since_s: float
    tenant: str | None
    category: str | None
    action: str | None
    as_json: bool
    follow: bool

    @property
    def lists(self) -> bool:
        return self.category is not None or self.action is not None

    def shows(self, verdict: Verdict) -> bool:
        """Whether the verdict is to be listed."""
        if not self.lists:
            return did_something(verdict)
        return self.category in (None, verdict.category) and self.action in (None, verdict.action)


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Ends the process with status 2 and a usage message for what nobody can ask."""
    known = "\n".join(
        line for line in describe_settings(MeshSettings).splitlines() if line.strip().startswith(_SETTINGS)
    )
    parser = argparse.ArgumentParser(
        prog="python -m services.moderation.report",
        description="What moderation did, from the verdicts on moderation.verdicts. They hold no text, nor does this.",
        epilog="Settings are environment variables:\n\n" + known,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--since", type=_duration_s, default="24h", metavar="1h", help="how far back (24h): 90s 30m 1h 7d"
    )
    parser.add_argument("--tenant", help="count only this tenant's")
    parser.add_argument("--category", help="list the verdicts on this category, with their ids, instead of a summary")
    parser.add_argument(
        "--action", choices=("pass", "flag", "mask", "cut", "refuse"), help="list those with this action"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object; where verdicts are listed, one a line")
    parser.add_argument("--follow", action="store_true", help="go on: list what is found, as it comes, until Ctrl-C")
    found = parser.parse_args(arguments)
    return Options(found.since, found.tenant, found.category, found.action, found.json, found.follow)


def _duration_s(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration like 90s, 30m, 1h or 7d")
    return int(match[1]) * float(_UNITS_S[match[2]])
