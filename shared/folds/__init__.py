"""Pure folds of the two logs: what a prefix of a response's records means, alike for every reader."""

from shared.folds.events import EventFold
from shared.folds.journal import Claim, Decision, Effect, JournalFold

__all__ = ["Claim", "Decision", "Effect", "EventFold", "JournalFold"]
