"""DESIGN 5.2 with byte-level BPE: wherever attempts take over, what stands in the journal is that of one attempt."""

from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.trace import INVALID_SPAN

from services.inference.engines.port import Likelihood, StepOutput
from services.inference.generation import Generation
from shared.chat import ChatTokenizer
from shared.folds import JournalFold
from shared.records import Finish, Sampling, TokenLogprob, Tokens
from tests.unit.inference.test_stops import plain
from tests.unit.inference.worker.bench import job

# ids 17…272 are mostly single bytes: halves of characters, in any order
any_ids = st.lists(st.integers(17, 300) | st.integers(17, 49_151), min_size=1, max_size=24)
any_cuts = st.lists(st.integers(0, 24), max_size=4)


def attempt(
    tokenizer: ChatTokenizer, said: list[int], new: list[int], *, last: bool, stops: list[str], step: int = 1
) -> list[Tokens]:
    """What one claim writes that goes on behind `said` with `new`, `step` tokens a step; `last` ends at the limit."""
    generation = Generation(job(sampling=Sampling(stop=stops, logprobs=0)), "claim", 0, (1,), tokenizer, INVALID_SPAN)
    seam = generation.resume(tuple(said), len(said) + len(new) + (not last))
    if seam.finish is not None:
        return [generation.finish_only(seam)]
    records: list[Tokens] = []
    for start in range(0, len(new), step):
        ids = tuple(new[start : start + step])
        finish = "length" if last and start + step >= len(new) else None
        record = generation.tokens(StepOutput("claim", ids, finish, logprobs=(Likelihood(-1.5),) * len(ids)))  # type: ignore[arg-type]
        assert record is not None
        assert record.position == len(said) + start
        records.append(record)
        if record.finish is not None:
            break
    return records


def answer(
    tokenizer: ChatTokenizer, ids: list[int], cuts: list[int], stops: list[str], step: int = 1
) -> tuple[list[int], list[str], list[TokenLogprob], Finish]:
    """The journal of attempts that took over at `cuts`, as any reader folds it."""
    fold = JournalFold()
    for end in [*sorted(min(cut, len(ids)) for cut in cuts), len(ids)]:
        for record in attempt(
            tokenizer, fold.ids, ids[len(fold.ids) : end], last=end == len(ids), stops=stops, step=step
        ):
            fold.ids += record.ids
            fold.pieces += record.pieces
            fold.logprobs += record.logprobs
            if record.finish is not None:
                return fold.ids, fold.pieces, fold.logprobs, record.finish
    raise AssertionError("the last attempt ends")


@given(ids=any_ids, cuts=any_cuts)
@settings(max_examples=200)
def test_any_split_into_attempts_gives_the_same_pieces(
    tokenizer: ChatTokenizer, ids: list[int], cuts: list[int]
) -> None:
    said, pieces, logprobs, finish = answer(tokenizer, ids, cuts, [])
    assert (said, pieces, logprobs, finish) == answer(tokenizer, ids, [], [])
    assert (said, "".join(pieces), finish.reason) == (ids, tokenizer.decode(ids), "length")
    assert [said.end for said in logprobs] == [len(tokenizer.decode(ids[:n])) for n in range(1, len(ids) + 1)]


@given(data=st.data(), ids=any_ids, cuts=any_cuts, step=st.integers(1, 3))
@settings(max_examples=400)
def test_stop_strings_end_every_split_alike(
    tokenizer: ChatTokenizer, data: st.DataObject, ids: list[int], cuts: list[int], step: int
) -> None:
    """Cut out of the text itself, so that they are found: inside tokens, across them, between halves of characters."""
    text = tokenizer.decode(ids)
    places = st.tuples(st.integers(0, len(text)), st.integers(1, 5)).map(lambda place: text[place[0] : sum(place)])
    stops = [stop for stop in data.draw(st.lists(places, max_size=3)) if stop]
    said, pieces, logprobs, finish = answer(tokenizer, ids, cuts, stops)
    assert (said, pieces, logprobs, finish) == answer(tokenizer, ids, [], stops)
    assert ("".join(pieces), finish.reason) == (plain(text, stops)[0], "stop" if plain(text, stops)[1] else "length")
    assert len(said) == len(logprobs) == len(ids[: len(said)])
    in_steps = answer(tokenizer, ids, [], stops, step)
    assert (in_steps[0], "".join(in_steps[1]), in_steps[3]) == (said, "".join(pieces), finish)


@given(text=st.text("aé漢🦜 \u0301", min_size=1, max_size=12))
@example(text="🦜")
@settings(max_examples=200)
def test_a_token_ends_where_its_last_character_will_be_whole(tokenizer: ChatTokenizer, text: str) -> None:
    """Whatever a stop string holds back: the ends count the raw text."""
    ids = tokenizer.encode_text(text)
    _, _, logprobs, _ = answer(tokenizer, ids, [], [text + "never"])
    whole = [tokenizer.decode(ids[:n]) for n in range(1, len(ids) + 1)]
    assert [said.end for said in logprobs] == [len(t) for t in whole]
    assert all(text.startswith(t.removesuffix("\ufffd")) for t in whole)
    assert b"".join(bytes(said.bytes or []) for said in logprobs).decode() == text
