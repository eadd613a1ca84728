"""Sending letters back: which of them, after a question, one after the other."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from deploy.terminal.command import at_a_terminal, blocking
from deploy.terminal.dlq.letters import Letter
from deploy.terminal.dlq.rules import note, why_not
from shared.log.redrive import Redriver
from shared.settings import MeshSettings
from shared.topics import Outsider

SOURCE = "operator"
"""Who the marks in the queues are from, as CloudEvents' `source` names it."""

Say = Callable[[str], None]
Origin = tuple[str, int, int]
"""As `Letter.origin`."""


@dataclass
class Plan:
    """What is to be sent back, by the record that was put aside: one record, several letters where several services put
    it aside. `refused`: what cannot be, and why. `times`: how often each record was sent back already."""

    records: dict[Origin, list[Letter]] = field(default_factory=dict)
    refused: list[tuple[Letter, str]] = field(default_factory=list)
    times: dict[Origin, int] = field(default_factory=dict)


def plan(wanted: Sequence[Letter], letters: Sequence[Letter], *, again: bool) -> Plan:
    """Every record of the wanted letters once; `again`: also those that were sent back already, by whichever of all
    the `letters`. Pure."""
    found = Plan()
    done = {letter.origin for letter in letters if letter.sent_back}
    for letter in letters:
        found.times[letter.origin] = max(letter.times, found.times.get(letter.origin, 0))
    for letter in wanted:
        refusal = why_not(letter)
        if refusal is None and letter.origin in done and not again:
            refusal = "it was sent back already; --again sends it once more"
        if refusal is None:
            found.records.setdefault(letter.origin, []).append(letter)
        else:
            found.refused.append((letter, refusal))
    return found


def describe(found: Plan) -> list[str]:
    """What would be done, one line per record and per letter that cannot go."""
    lines = []
    for (topic, partition, offset), letters in found.records.items():
        about = f"; {text}" if (text := note(letters[0])) else ""
        lines.append(
            f"{letters[0].name}: {letters[0].kind} goes back to {topic}, where it was {partition}@{offset}{about}"
        )
    return lines + [f"{letter.name}: stays, {reason}" for letter, reason in found.refused]


async def agreed(count: int) -> bool:
    """Ask the person at the terminal. False also where nobody is there to answer."""
    if not at_a_terminal():
        print("error: nobody can be asked here: say --yes, or --dry-run", file=sys.stderr)
        return False
    question = f"send {count} record{'s' if count > 1 else ''} back? [y/N] "
    try:
        answer = await blocking(lambda: input(question))
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")


async def send_back(settings: MeshSettings, found: Plan, say: Say) -> None:
    """Append each record, then say so in its queue. Raises LogError at the first that the broker does not take.

    In this order: a record that was sent back without a mark can only be sent back again, which changes nothing, but a
    mark without its record would be a lie.
    """
    async with Redriver(settings, Outsider.OPERATOR, settings.service_id or SOURCE) as redriver:
        for origin, letters in found.records.items():
            times = found.times[origin] + 1
            sent = await redriver.send_back(letters[0].body, times)
            for letter in letters:
                await redriver.note(letter.body, letter.number, sent, times)
            where = f"{letters[0].body.origin_topic}/{sent.partition}@{sent.offset}"
            say(f"{letters[0].name}: sent back, now {where}" + (f", for the {times}. time" if times > 1 else ""))
