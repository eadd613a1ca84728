"""The bytes of single tokens, by the kind of vocabulary."""

from tokenizers import AddedToken, Tokenizer, decoders, models

from shared.chat import ChatTokenizer, load_chat_tokenizer
from shared.chat.spelling import Spelling


def sentencepiece() -> Tokenizer:
    """A vocabulary as Llama 2 and Gemma have it."""
    vocabulary = {"<unk>": 0, "<0xF0>": 1, "<0x0A>": 2, "▁the": 3, "é": 4, "▁": 5, "<0xZZ>": 6}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    return tokenizer


def test_the_bytes_of_an_answers_tokens_are_those_of_its_text() -> None:
    tokenizer = load_chat_tokenizer("")
    text = "Grüße 🦜 漢字\n\ttabs, \x00 and “quotes” e\u0301"
    ids = tokenizer.encode_text(text)
    assert b"".join(map(tokenizer.bytes_of, ids)).decode() == text
    assert any(tokenizer.bytes_of(token).decode(errors="replace").count("\ufffd") for token in ids), "halves are exact"


def test_every_token_of_a_byte_level_vocabulary_is_spelled_as_it_is_decoded() -> None:
    tokenizer = load_chat_tokenizer("")
    backend = tokenizer.backend
    ids = range(backend.get_vocab_size())
    decoded = backend.decode_batch([[token] for token in ids], skip_special_tokens=False)
    assert [tokenizer.bytes_of(token).decode(errors="replace") for token in ids] == decoded


def test_control_tokens_are_their_own_text() -> None:
    tokenizer: ChatTokenizer = load_chat_tokenizer("")
    assert {tokenizer.bytes_of(token) for token in tokenizer.eos_ids} == {b"<|im_end|>"}


def test_sentencepiece_spells_spaces_and_lone_bytes_in_its_own_way() -> None:
    spelling = Spelling(sentencepiece())
    spelled = [spelling.bytes_of(token) for token in range(1, 8)]
    assert spelled == [b"\xf0", b"\n", b" the", "é".encode(), b" ", b"<0xZZ>", b"</s>"]


def test_an_id_that_no_token_has_is_no_bytes() -> None:
    """A model's last rows can be padding."""
    tokenizer = load_chat_tokenizer("")
    assert tokenizer.bytes_of(tokenizer.backend.get_vocab_size() + 5) == b""


def test_a_vocabulary_without_a_decoder_is_text() -> None:
    assert Spelling(Tokenizer(models.WordLevel({"word": 0}))).bytes_of(0) == b"word"
