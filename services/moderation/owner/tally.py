"""The scores of one response's output, as its windows are resolved. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.moderation.judging.findings import merge_highest
from services.moderation.owner.line import Step
from shared.records import BackendReport


@dataclass(slots=True)
class Tally:
    """`overall`: the highest score of each category so far; `failed`: backends that had no answer at some window.
    `_since` and `_reports` are those since the last stretch that was told of."""

    overall: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    _since: dict[str, float] = field(default_factory=dict)
    _reports: Sequence[BackendReport] = ()

    def add(self, step: Step) -> None:
        """Count a window that was resolved."""
        if not step.matched and step.hearing is None:
            return  # nearly every one
        for finding in step.matched:
            self._count({finding.category: finding.score})
        heard = step.heard
        if heard.reports:
            self._count(heard.scores)
            self.failed.update(heard.failed)
            self._reports = heard.reports

    def take(self) -> tuple[dict[str, float], Sequence[BackendReport]]:
        """The scores of the stretch that ends here, and how the backends took part; then the next one begins."""
        taken = self._since, self._reports
        self._since, self._reports = {}, ()
        return taken

    def _count(self, scores: Mapping[str, float]) -> None:
        merge_highest(self._since, scores)
        merge_highest(self.overall, scores)
