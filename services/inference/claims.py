"""What a claim starts from (DESIGN 5.2). Pure: the job and the journal up to the own claim decide."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from services.inference.engines.port import RequestTooLongError
from shared.folds import JournalFold
from shared.records import Job, Journal


@dataclass(frozen=True, slots=True)
class Seam:
    """Where a generation goes on: `said` are the ids that stand in the journal, `remaining` may still be said.

    `finish` is set when nothing is left to say and only the finish is owed.
    """

    said: tuple[int, ...]
    remaining: int
    finish: Literal["stop", "length"] | None = None


def limit_of(job: Job, prompt_tokens: int, context_window: int) -> int:
    """How many tokens the response may have: what was asked for, but never past the model's window.

    Raises RequestTooLongError if the prompt alone passes it.
    """
    room = context_window - prompt_tokens
    if room < 0:
        raise RequestTooLongError(f"prompt of {prompt_tokens:,} tokens exceeds the window of {context_window:,} tokens")
    wanted = job.sampling.max_output_tokens
    return room if wanted is None else min(wanted, room)


def seam_at(said: tuple[int, ...], limit: int, eos_ids: frozenset[int], *, stopped: bool = False) -> Seam:
    """Continue behind `said`, unless it is complete already; `stopped`: its text holds a stop string."""
    if stopped or (said and said[-1] in eos_ids):
        return Seam(said, 0, "stop")
    if len(said) >= limit:
        return Seam(said, 0, "length")
    return Seam(said, limit - len(said))


def said_before(journal: Iterable[Journal], claim: str) -> tuple[int, ...] | None:
    """Fold the response's journal up to and including the own claim; the ids said by then.

    None: the claim does not own the response (another of the same attempt was first, a higher one exists, or the
    response has ended), and must be given up silently.
    """
    fold = JournalFold()
    for record in journal:
        fold.apply(record)
    if fold.decision is not None or fold.owner is None or fold.owner.id != claim:
        return None
    return tuple(fold.ids)
