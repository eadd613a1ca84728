"""Seams over multi-byte text: whoever says which token, and wherever one claim takes over from another, the journal
folds to the one text. (Masks over window edges, split projections and the real tokenizer's decoder have their own
properties in `tests/unit`.)"""

import codecs
from collections.abc import Iterable
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.trace import INVALID_SPAN

from services.inference.claims import said_before
from services.inference.engines.port import StepOutput
from services.inference.generation import Generation
from shared.chat import ChatTokenizer
from shared.folds import JournalFold
from shared.records import Claimed, Finish, Job, Journal, Requested, ResponseSpec, Sampling, Tokens

R = "resp_1"
END = 256


class ByteDecoder:
    """Every byte is a token: the hardest seams there are."""

    def __init__(self, primed: Iterable[int]) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        for token in primed:
            self.push(token)

    def push(self, token: int) -> str:
        return "" if token == END else self._utf8.decode(bytes([token]))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class ByteTokenizer:
    eos_ids = frozenset({END})
    context_window = 10_000

    def decode_stream(self, primed: Iterable[int] = ()) -> ByteDecoder:
        return ByteDecoder(primed)


TOKENIZER = cast(ChatTokenizer, ByteTokenizer())
REQUESTED = Requested(
    response_id=R, tenant="t", spec=ResponseSpec(model="m", input=[]), created_ms=0, deadline_ms=1, input_tokens=1
)


def run_attempt(journal: list[Journal], attempt: int, ids: list[int], steps: list[int]) -> None:
    """One worker's life: claim, read the seam, say tokens in steps of these sizes, then fall silent."""
    claim = f"c{attempt}"
    journal.append(Claimed(response_id=R, claim=claim, attempt=attempt, worker="w", mailbox=0))
    said = said_before(journal, claim)
    assert said is not None
    limit = len(ids)
    sampling = Sampling(max_output_tokens=limit)
    job = Job(response_id=R, attempt=attempt, prompt=[], sampling=sampling, deadline_ms=1, model="m", journal_offset=0)
    generation = Generation(job, claim, 0, (0,), TOKENIZER, INVALID_SPAN)
    seam = generation.resume(said, limit)
    if seam.finish is not None:
        journal.append(generation.finish_only(seam))
        return
    generation.request(seam)
    position = len(said)
    for size in steps:
        new = tuple(ids[position : position + size])
        position += len(new)
        finish = None if position < limit else "stop" if ids[-1] == END else "length"
        record = generation.tokens(StepOutput(claim, new, finish))  # type: ignore[arg-type]
        if record is not None:
            journal.append(record)
        if finish is not None:
            return


texts = st.text(alphabet="aé€😀\u0301", min_size=1, max_size=8)


@settings(max_examples=200)
@given(texts, st.lists(st.lists(st.integers(1, 4), max_size=4), max_size=6), st.booleans(), st.integers(0, 3))
def test_takeovers_at_any_byte_fold_to_the_one_text(text: str, lives: list[list[int]], ends: bool, torn: int) -> None:
    """`torn` bytes are missing at the end: a character that never becomes whole ends as U+FFFD, once."""
    said = text.encode()
    said = said[: max(1, len(said) - torn)]
    ids = [*said, END] if ends else list(said)
    journal: list[Journal] = [REQUESTED]
    for attempt, steps in enumerate([*lives, [len(ids)]], start=1):
        fold = fold_of(journal)
        if fold.decision is None:
            run_attempt(journal, attempt, ids, steps)
    fold = fold_of(journal)
    assert fold.ids == ids
    assert fold.text == said.decode(errors="replace")
    assert fold.decision == Finish(reason="stop" if ends else "length", input_tokens=1)


@settings(max_examples=200)
@given(texts, st.data())
def test_late_copies_and_a_lost_append_never_make_another_text(text: str, data: st.DataObject) -> None:
    """What is lost ends the claim; the successor says the rest; late copies of anything change nothing."""
    ids = list(text.encode())
    journal: list[Journal] = [REQUESTED]
    run_attempt(journal, 1, ids, [1] * len(ids))
    tokens = [place for place, record in enumerate(journal) if isinstance(record, Tokens)]
    del journal[data.draw(st.sampled_from(tokens))]
    journal = with_late_copies(journal, data)
    if fold_of(journal).decision is None:
        run_attempt(journal, 2, ids, [len(ids)])
    fold = fold_of(with_late_copies(journal, data))
    assert (fold.ids, fold.text) == (ids, text)


def with_late_copies(journal: list[Journal], data: st.DataObject) -> list[Journal]:
    copied = list(journal)
    for _ in range(data.draw(st.integers(0, 3))):
        original = data.draw(st.integers(0, len(copied) - 1))
        copied.insert(data.draw(st.integers(original + 1, len(copied))), copied[original])
    return copied


def fold_of(journal: list[Journal]) -> JournalFold:
    fold = JournalFold()
    for record in journal:
        fold.apply(record)
    return fold
