"""Prompt cache: the same tokens as encoding everything, without encoding everything."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from quire_services.gateway.text.prompt_cache import PromptCache

SPECIAL = ["<bos>", "<end>", "<end><x>", "<x><y>", "<|a|>"]  # one hides the beginning of another
CORPUS = ["the cat  sat on the mat, the the end", "<en d> é ü 語 it's 12 x", "a b c" * 20]
PIECES = st.sampled_from(
    [
        *SPECIAL,
        "<",
        ">",
        "<end",
        "x>",
        "<x>",
        "<y>",
        " ",
        "  ",
        "\n",
        "the",
        " the",
        "cat",
        "é",
        "e\u0301",
        "語",
        "'s",
        "12",
        "THE",
        "<|",
        "▁",
    ]
)
TEXTS = st.lists(PIECES, max_size=30).map("".join)
LONG = 6


def trained(model, trainer, **parts) -> Tokenizer:
    """A tokenizer of these parts."""
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.add_tokens([AddedToken("the the", normalized=True), AddedToken("t<end", normalized=True)])
    return tokenizer


@cache
def tokenizer(kind: str) -> Tokenizer:
    """One of each way that models in use cut text."""
    small = {"vocab_size": 300, "show_progress": False, "special_tokens": ["<unk>"]}
    if kind == "bytes":
        spaced = pre_tokenizers.ByteLevel(add_prefix_space=True)
        return trained(models.BPE(), trainers.BpeTrainer(**small), pre_tokenizer=spaced)
    if kind == "metaspace first":
        spaced = pre_tokenizers.Metaspace(prepend_scheme="first")
        trainer = trainers.UnigramTrainer(**small | {"vocab_size": 80, "unk_token": "<unk>"})
        return trained(models.Unigram(), trainer, pre_tokenizer=spaced, normalizer=normalizers.NFKC())
    if kind == "prepended":
        changed = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        return trained(models.BPE(unk_token="<unk>", fuse_unk=True), trainers.BpeTrainer(**small), normalizer=changed)
    lower = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    return trained(
        models.WordPiece(unk_token="<unk>"),
        trainers.WordPieceTrainer(**small),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
        normalizer=lower,
    )


def plain(kind: str, text: str) -> list[int]:
    """What the tokenizer says of the whole text."""
    return tokenizer(kind).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", ["bytes", "metaspace first", "prepended", "words"])
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_the_same_tokens(kind, texts):
    """Whatever is between special tokens, and whether it was kept or not: the tokens of the whole text."""
    prompt_cache = PromptCache(tokenizer(kind), LONG, 60)
    for text in [*texts, *texts]:
        assert prompt_cache.encode(text, "t") == plain(kind, text)


class Counting:
    """A tokenizer that notes what it is asked to encode."""

    def __init__(self, inner):
        self.inner, self.seen = inner, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def encode_batch_fast(self, texts, **how):
        self.seen += texts
        return self.inner.encode_batch_fast(texts, **how)


SYSTEM, TURN, MORE = "<bos>" + "the cat " * 20, "<end>hi<end>you", "<end>" + "on the mat " * 20


def test_a_long_part_is_encoded_once_for_each_tenant():
    """What a tenant sent before is not encoded again, in whatever text it comes; another tenant's is."""
    counting = Counting(tokenizer("bytes"))
    prompt_cache = PromptCache(counting, 50)
    prompt_cache.encode(SYSTEM + TURN, "a")
    assert counting.seen == [SYSTEM, TURN]
    counting.seen.clear()
    prompt_cache.encode(SYSTEM + "<end>bye" + MORE, "a")
    prompt_cache.encode(SYSTEM + TURN + MORE, "a")
    assert counting.seen == ["<end>bye", MORE, TURN]
    counting.seen.clear()
    prompt_cache.encode(SYSTEM + TURN, "b")
    assert counting.seen == [SYSTEM, TURN]


def test_the_least_recently_used_goes_first():
    """A tenant's parts have a bound in characters; one that is larger than all of it is not kept at all."""
    counting = Counting(tokenizer("bytes"))
    prompt_cache = PromptCache(counting, 20, len(SYSTEM) + len(MORE))
    for text in (SYSTEM, MORE, SYSTEM, "<end>" + "x" * 30, SYSTEM, MORE):
        prompt_cache.encode(text, "a")
    assert counting.seen == [SYSTEM, MORE, "<end>" + "x" * 30, MORE]
    counting.seen.clear()
    for _ in range(2):
        prompt_cache.encode("<end>" + "y" * 1000, "a")
    assert len(counting.seen) == 2


@pytest.mark.parametrize("how", ["lstrip", "rstrip", "single_word", "special as text", "dropout"])
def test_tokenizers_that_look_around_are_not_cut(how):
    """Where a special token's neighbours matter, or chance does, the whole text is encoded each time."""
    inner = trained(models.BPE(), trainers.BpeTrainer(vocab_size=300, show_progress=False))
    if how == "special as text":
        inner.encode_special_tokens = True
    elif how == "dropout":
        inner.model.dropout = 0.1
    else:
        inner.add_special_tokens([AddedToken("<y>", **{how: True})])
    counting = Counting(inner)
    prompt_cache = PromptCache(counting, 50)
    for _ in range(2):
        prompt_cache.encode(SYSTEM + TURN, "a")
    assert counting.seen == [SYSTEM + TURN] * 2
