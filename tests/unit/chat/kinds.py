"""Small tokenizers of every kind that a chat model may come with, each trained on a few lines."""

from collections.abc import Callable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LINES = [
    "the keeper of the lighthouse",
    "Say 3 things, norm, stop and word.",
    "user assistant system Zoë",
    "a b  c   d\n\ne",
]

ADDED = [
    AddedToken("<|start|>", normalized=False, special=True),
    AddedToken("<|end|>", normalized=False, special=True),
    AddedToken("<|end|>>", normalized=False, special=True),  # longer than the one that it begins with
    AddedToken("<right>", normalized=False, special=True, rstrip=True),
    AddedToken("<left>", normalized=False, special=True, lstrip=True),
    AddedToken("<alone>", normalized=False, special=True, single_word=True),
    AddedToken("word", normalized=False, special=False, single_word=True),
    AddedToken("<norm>", normalized=True, special=False),
    AddedToken("  ", normalized=False, special=False),
    AddedToken("stop|>", normalized=False, special=False),
]
FRAGMENTS = [token.content for token in ADDED] + [
    "<|",
    "|>",
    " ",
    "\n",
    "a",
    "the",
    "_",
    "\u2581",
    "user\n",
    "Zo\u00eb",
]


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(
        tokenizer, trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )


def _byte_level_behind_a_space() -> Tokenizer:
    tokenizer = _byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def _sentencepiece_by_normalizer() -> Tokenizer:
    """As Llama 2 is converted: every part that is normalized begins with U+2581."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    return _trained(tokenizer, trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"]))


def _sentencepiece_by_pre_tokenizer(scheme: str) -> Callable[[], Tokenizer]:
    """As later models are converted; scheme "first": only the very beginning of the text gets U+2581."""

    def build() -> Tokenizer:
        tokenizer = Tokenizer(models.BPE(fuse_unk=True, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        return _trained(tokenizer, trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"]))

    return build


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return _trained(tokenizer, trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", special_tokens=["<unk>"]))


def _word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _trained(tokenizer, trainers.WordPieceTrainer(vocab_size=100, special_tokens=["[UNK]"]))


def _trained(tokenizer: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    trainer.show_progress = False
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.add_tokens(ADDED)
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level BPE": _byte_level,
    "byte-level BPE behind a space": _byte_level_behind_a_space,
    "SentencePiece, normalizer": _sentencepiece_by_normalizer,
    "SentencePiece, first": _sentencepiece_by_pre_tokenizer("first"),
    "SentencePiece, always": _sentencepiece_by_pre_tokenizer("always"),
    "SentencePiece, never": _sentencepiece_by_pre_tokenizer("never"),
    "Unigram": _unigram,
    "WordPiece": _word_piece,
}
