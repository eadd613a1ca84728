"""Token by token into whole characters, from any position."""

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.chat import ChatTokenizer

# any bytes a model may say, control tokens and halves of characters included: ids 17…272 are mostly single bytes
any_ids = st.lists(st.integers(0, 16) | st.integers(17, 300) | st.integers(0, 49_151), max_size=24)
# the vocabulary has no token for these bytes: BPE without an unknown token leaves them out
_MISSING = {chr(code) for code in (*range(0x20), 0x7F)} - set("\t\n\r")
sayable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=_MISSING, max_codepoint=0x3FFFF))


def pieces(tokenizer: ChatTokenizer, ids: list[int], primed: int = 0) -> list[str]:
    decoder = tokenizer.decode_stream(ids[:primed])
    said = [decoder.push(token_id) for token_id in ids[primed:]]
    return [*said, decoder.flush()]


@given(ids=any_ids)
@settings(max_examples=500)
def test_the_pieces_are_the_text(tokenizer: ChatTokenizer, ids: list[int]) -> None:
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@given(text=sayable)
@settings(max_examples=300)
def test_text_survives_the_round_trip(tokenizer: ChatTokenizer, text: str) -> None:
    assert "".join(pieces(tokenizer, tokenizer.encode_text(text))) == text


@given(ids=any_ids)
@settings(max_examples=200)
def test_a_primed_decoder_goes_on_exactly(tokenizer: ChatTokenizer, ids: list[int]) -> None:
    whole = pieces(tokenizer, ids)
    for position in range(len(ids) + 1):
        assert pieces(tokenizer, ids, primed=position) == whole[position:]


def test_a_piece_waits_until_its_character_is_whole(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.encode_text("😀")
    assert len(ids) > 1
    assert pieces(tokenizer, ids) == [""] * (len(ids) - 1) + ["😀", ""]


def test_half_a_character_at_the_end_comes_with_the_flush(tokenizer: ChatTokenizer) -> None:
    ids = tokenizer.encode_text("a😀")[:-1]
    assert "".join(pieces(tokenizer, ids)[:-1]) == "a"
    assert pieces(tokenizer, ids)[-1] == tokenizer.decode(ids)[1:] != ""


def test_the_end_of_turn_is_silent(tokenizer: ChatTokenizer) -> None:
    (end,) = tokenizer.eos_ids
    assert tokenizer.decode_stream().push(end) == ""
