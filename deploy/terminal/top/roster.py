"""Who came, who went and who changed, from one look at the heartbeats to the next. Pure."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from shared.heartbeats import Member

NEWS_KEPT = 50


@dataclass(frozen=True, slots=True)
class News:
    """Something that happened, by the log's clock (unix ms)."""

    at_ms: int
    text: str


class Roster:
    """Compares the members of two looks. `news` holds the last of what it found, the latest last."""

    def __init__(self) -> None:
        self.news: deque[News] = deque(maxlen=NEWS_KEPT)
        self._known: dict[str, Member] = {}

    def look(self, members: Mapping[str, Member]) -> None:
        """Take in who is heard now; a look with nobody before it finds them all there already."""
        first = not self._known
        for name, member in members.items():
            before = self._known.get(name)
            if before is None and not first:
                self._tell(member.last_ms, f"{name} came: {member.beat.state}")
            elif before is not None and before.beat.state != member.beat.state:
                self._tell(member.last_ms, f"{name} is {member.beat.state}")
        for name in sorted(self._known.keys() - members.keys()):
            self._tell(self._known[name].last_ms, _gone(self._known[name]))
        self._known = dict(members)

    def _tell(self, at_ms: int, text: str) -> None:
        self.news.append(News(at_ms, text))


def _gone(member: Member) -> str:
    beat = member.beat
    if beat.state == "draining":
        return f"{beat.id} left"
    held = f", holding {len(beat.claims)} claims" if beat.claims else ""
    return f"{beat.id} fell silent{held}"
