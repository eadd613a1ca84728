"""How fast one store is at what history asks of it: contexts, recording, pages. In this process, without a broker."""

import dataclasses
import time
from collections.abc import Collection, Sequence
from statistics import median
from typing import Literal

from services.history.handlers import HANDLERS
from services.history.ports import Ports
from services.history.recorder import Recorder
from services.history.stores.port import Addition, Conversation, ItemPage, Store
from shared.chat import ChatTokenizer
from shared.control import Outgoing
from shared.ids import ResponseId, new_id, now_ms
from shared.log import RawRecord, Replay
from shared.records import ContextRequested, Record, Requested
from shared.records.codec import encode_headers, encode_value
from shared.topics import Topic
from tests.bench.history.dialogue import TENANT, Dialogue
from tests.bench.load import BenchError

_DELTAS = 10  # of each response that is recorded
_CONVERSATIONS = 100
_ADDED_AT_ONCE = 100
_PLACES = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """Milliseconds from a request for context to the request with it, as medians; `tokens` of the prompt.

    A conversation's include taking its lock. `unseen`: of chains of which this replica has counted nothing yet.
    """

    chain_ms: float
    conversation_ms: float
    unseen_ms: float
    tokens: int


async def context(store: Store, tokenizer: ChatTokenizer, *, dialogues: int, turns: int) -> Context:
    """Of the request that follows `turns` turns, where the one before it was asked here too."""
    ports = Ports(store, Silence(), dataclasses.replace(tokenizer), now_ms, 1, 0.0)
    chains = [Dialogue(seed) for seed in range(dialogues)]
    conversations = [Dialogue(seed + dialogues, conversation=await begun(store)) for seed in range(dialogues)]
    for dialogue in (*chains, *conversations):
        for _ in range(turns - 1):
            await store.record(dialogue.turn())
    unseen = [await _asked(dialogue, ports) for dialogue in chains]
    for dialogue in conversations:
        await _asked(dialogue, ports)
    for dialogue in (*chains, *conversations):
        await store.record(dialogue.turn())
    by_chain = [await _asked(dialogue, ports) for dialogue in chains]
    by_conversation = [await _asked(dialogue, ports) for dialogue in conversations]
    tokens = round(median(tokens for _, tokens in by_chain))
    return Context(*(median(ms for ms, _ in each) for each in (by_chain, by_conversation, unseen)), tokens)


async def begun(store: Store) -> str:
    """A new conversation's id."""
    conversation_id = new_id("conv")
    await store.create_conversation(Conversation(conversation_id, TENANT, now_ms()), [])
    return conversation_id


async def _asked(dialogue: Dialogue, ports: Ports) -> tuple[float, int]:
    """Ask for the next turn's context: how long it took (ms), and how many tokens the prompt has."""
    asked = dialogue.asks()
    started_s = time.perf_counter()
    outgoing = await HANDLERS[ContextRequested](asked, ports)
    took_ms = (time.perf_counter() - started_s) * 1000
    if dialogue.conversation is not None:
        await ports.store.release(TENANT, dialogue.conversation, asked.request.response_id)
    match outgoing:
        case [Outgoing(record=Requested(input_tokens=tokens))]:
            return took_ms, tokens
    raise BenchError(f"a request for context became {outgoing}")


async def recorded_per_s(store: Store, *, responses: int, batch: int, in_conversations: bool = False) -> float:
    """Responses a second that the recorder takes, `batch` of them at once, decoding and commit included."""
    spread = min(_CONVERSATIONS, responses)
    ids = [await begun(store) if in_conversations else None for _ in range(spread)]
    dialogues = [Dialogue(seed, conversation=conversation) for seed, conversation in enumerate(ids)]
    records = [raw for n in range(responses) for raw in _raw(dialogues[n % spread].turn(_DELTAS))]
    recorder = Recorder(store, Silence(), Silence())
    size = batch * (_DELTAS + 2)
    started_s = time.perf_counter()
    for start in range(0, len(records), size):
        await recorder.take(records[start : start + size], Silence())
    took_s = time.perf_counter() - started_s
    if recorder.recorded != responses:
        raise BenchError(f"{recorder.recorded} of {responses} responses were recorded")
    return responses / took_s


def _raw(records: Sequence[Record]) -> list[RawRecord]:
    return [
        RawRecord(0, 0, now_ms(), record.subject, encode_value(record), tuple(encode_headers(record, "bench", None)))
        for record in records
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class Pages:
    """Milliseconds for a page of a long conversation: the median, and the slowest."""

    median_ms: float
    slowest_ms: float


async def pages(store: Store, *, items: int, page: int, rounds: int) -> Pages:
    """Of pages at the beginning, at the end and all over the midst of `items` items, in both orders."""
    conversation_id, added = await begun(store), Dialogue(0).items(items)
    for start in range(0, items, _ADDED_AT_ONCE):
        if await store.add_items(TENANT, conversation_id, added[start : start + _ADDED_AT_ONCE]) is not Addition.DONE:
            raise BenchError("items could not be added")
    last = items - page - 1
    places = [None, *(added[page + (last - page) * n // _PLACES].id for n in range(_PLACES + 1))]
    orders: tuple[Literal["asc", "desc"], ...] = ("asc", "desc")
    took_ms = []
    for after in places * rounds:
        for order in orders:
            started_s = time.perf_counter()
            found = await store.items(TENANT, conversation_id, limit=page, order=order, after=after)
            took_ms.append((time.perf_counter() - started_s) * 1000)
            if not isinstance(found, ItemPage) or len(found.items) != page:
                raise BenchError(f"no page of {page} items behind {after}")
    return Pages(median(took_ms), max(took_ms))


class Silence:
    """The broker that is not measured: takes commits and events at once, and never heard of any response."""

    async def commit(self, partition: int, next_offset: int) -> bool:
        return True

    async def replay(self, topic: Topic, response_id: ResponseId, *, start: int | None = None) -> Replay:
        raise BenchError(f"{response_id.text} was looked for in the log")

    async def read(
        self, topic: Topic, partition: int, keys: Collection[str], *, since_ms: int, start: int | None = None
    ) -> Replay:
        """Nothing: on a busy machine a request can be old enough to be taken for a second delivery."""
        return Replay([], 0)

    async def send(self, outgoing: Outgoing) -> None:
        """Acknowledged."""

    async def bury(self, topic: Topic, record: RawRecord, error: Exception, attempts: int) -> None:
        raise BenchError(f"a record could not be stored: {error}")
