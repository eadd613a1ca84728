"""The bench of history: contexts, recording and pages by store, and what others feel of a store that is stopped."""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from deploy.brokers import Broker
from deploy.stores import StoreServerError
from services.history.stores.port import Store
from shared.chat import ChatTokenizer, load_chat_tokenizer
from tests.bench.history.measures import context, pages, recorded_per_s
from tests.bench.history.outage import latency
from tests.bench.history.places import Place, place
from tests.bench.load import BenchError

PAGE = 20
KEEPING_UP = 10
CATCHING_UP = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one store; `goal`: what is to be reached on the embedded one."""

    what: str
    value: float
    goal: str = ""


def history(arguments: argparse.Namespace, broker: Broker) -> tuple[str, dict[str, Any]]:
    """The table, and all figures for JSON. Raises BenchError, ChatmeshError."""
    tokenizer = load_chat_tokenizer(arguments.model)
    found: dict[str, list[list[Row]]] = {}
    try:
        for name in arguments.stores:
            with place(name) as there:
                print(f"history on {there.name}", file=sys.stderr)
                found[there.name] = asyncio.run(_rounds(arguments, broker, there, tokenizer))
    except StoreServerError as error:
        raise BenchError(str(error)) from error
    title = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {arguments.rounds} rounds"
    rounds = {name: [[asdict(row) for row in rows] for rows in several] for name, several in found.items()}
    shown = table({name: middle(several) for name, several in found.items()})
    return f"{title}\n\n{shown}", {"load": os.getloadavg(), "rounds": rounds}


async def _rounds(
    arguments: argparse.Namespace, broker: Broker, there: Place, tokenizer: ChatTokenizer
) -> list[list[Row]]:
    return [await _round(arguments, broker, there, tokenizer) for _ in range(arguments.rounds)]


async def _round(arguments: argparse.Namespace, broker: Broker, there: Place, tokenizer: ChatTokenizer) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="chatmesh-bench-") as folder:
        async with there.opened(Path(folder)) as store:
            rows = [
                *await _contexts(store, tokenizer, arguments.dialogues, arguments.turns),
                *await _recording(store, arguments.responses),
                *await _pages(store, arguments.items),
            ]
    if there.outage is not None:
        felt = await latency(broker, there, there.outage, requests=arguments.requests)
        rows.append(Row("an answer that needs no context, ms", felt.normal_ms))
        rows.append(Row("the same with the store stopped, ms", felt.stopped_ms))
        rows.append(Row("the second over the first", felt.ratio, "about 1"))
    return rows


async def _contexts(store: Store, tokenizer: ChatTokenizer, dialogues: int, turns: int) -> list[Row]:
    found = await context(store, tokenizer, dialogues=dialogues, turns=turns)
    of = f"context of {turns} turns"
    return [
        Row(f"{of} ({found.tokens:,} tokens), chain, ms", found.chain_ms, "≤ 3"),
        Row(f"{of}, conversation, with its lock, ms", found.conversation_ms, "≤ 3"),
        Row(f"{of}, counted for the first time, ms", found.unseen_ms),
    ]


async def _recording(store: Store, responses: int) -> list[Row]:
    alone = await recorded_per_s(store, responses=responses, batch=KEEPING_UP)
    together = await recorded_per_s(store, responses=responses, batch=KEEPING_UP, in_conversations=True)
    behind = await recorded_per_s(store, responses=responses, batch=CATCHING_UP)
    return [
        Row(f"responses recorded a second, {KEEPING_UP} at once", alone, "≥ 500"),
        Row("the same in conversations", together, "≥ 500"),
        Row(f"responses recorded a second, {CATCHING_UP} at once", behind),
    ]


async def _pages(store: Store, items: int) -> list[Row]:
    read = await pages(store, items=items, page=PAGE, rounds=5)
    return [
        Row(f"a page of {PAGE} of {items:,} items, ms", read.median_ms, "≤ 10"),
        Row("the slowest of these pages, ms", read.slowest_ms),
    ]


def middle(rounds: Sequence[Sequence[Row]]) -> list[Row]:
    """Each figure's median over the rounds."""
    return [Row(same[0].what, median(row.value for row in same), same[0].goal) for same in zip(*rounds, strict=True)]


def table(places: dict[str, list[Row]]) -> str:
    """Markdown; a store without a figure has none in its column."""
    figures = {name: {row.what: row.value for row in rows} for name, rows in places.items()}
    known = {row.what: row.goal for rows in places.values() for row in rows}
    lines = [
        "| history | " + " | ".join(places) + " | to reach (SQLite) |",
        "|---" * (len(places) + 2) + "|",
    ]
    for what, goal in known.items():
        values = [_shown(figures[name].get(what)) for name in places]
        lines.append(f"| {what} | " + " | ".join(values) + f" | {goal} |")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
