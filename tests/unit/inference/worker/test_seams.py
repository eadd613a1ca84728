"""DESIGN 5.2 with byte-level BPE: wherever attempts take over, the pieces are those of one attempt."""

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.trace import INVALID_SPAN

from services.inference.engines.port import StepOutput
from services.inference.generation import Generation
from shared.chat import ChatTokenizer
from tests.unit.inference.worker.bench import job

# ids 17…272 are mostly single bytes: halves of characters, in any order
any_ids = st.lists(st.integers(17, 300) | st.integers(17, 49_151), min_size=1, max_size=24)


def attempt(tokenizer: ChatTokenizer, said: list[int], new: list[int], *, last: bool) -> list[str]:
    """What one claim writes that goes on behind `said` with `new`, one token a step."""
    generation = Generation(job(), "claim", 0, (1,), tokenizer, INVALID_SPAN)
    seam = generation.resume(tuple(said), len(said) + len(new) + (not last))
    if seam.finish is not None:
        return generation.finish_only(seam).pieces
    pieces: list[str] = []
    for number, token in enumerate(new, start=1):
        record = generation.tokens(StepOutput("claim", (token,), "length" if last and number == len(new) else None))
        assert record is not None
        assert record.position == len(said) + number - 1
        pieces += record.pieces
    return pieces


@given(ids=any_ids, cuts=st.lists(st.integers(0, 24), max_size=4))
@settings(max_examples=300, deadline=None)
def test_any_split_into_attempts_gives_the_same_pieces(
    tokenizer: ChatTokenizer, ids: list[int], cuts: list[int]
) -> None:
    ends = [*sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    pieces: list[str] = []
    begin = 0
    for number, end in enumerate(ends, start=1):
        pieces += attempt(tokenizer, ids[:begin], ids[begin:end], last=number == len(ends))
        begin = end
    assert pieces == attempt(tokenizer, [], ids, last=True)
    assert "".join(pieces) == tokenizer.decode(ids)
