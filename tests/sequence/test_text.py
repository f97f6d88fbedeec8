"""TextTokenizer: any UTF-8 caption survives the round trip, and no caption can spell a control symbol."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from hitvideo.errors import ConfigError
from hitvideo.sequence.text import SMALLEST_VOCABULARY, TextTokenizer
from hitvideo.sequence.vocab import BOS, EOS, EOV, PAD, UNK

THINGS = [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("circle", "cross")]
CAPTIONS = [f"{thing} moves {way}" for thing in THINGS for way in ("up", "left")]


@pytest.fixture(scope="module")
def text() -> TextTokenizer:
    return TextTokenizer.train(CAPTIONS * 5, 400)


def round_trip(text: TextTokenizer, caption: str) -> None:
    ids = text.encode(caption)
    assert text.decode(ids) == caption
    assert all(EOV < id < text.size for id in ids), "the caption has a special"


@pytest.mark.parametrize(
    "caption",
    [
        "", "a red circle moves up", "Zürich — 東京 🎬", "two  spaces,   three", " leading", "trailing ", "  both  ",
        " ", "   ", "a\nb", "\n", "a\tb", "a\r\nb", "👩‍👩‍👧‍👦🏳️‍🌈", "e\u0301 is not é", "ﬁ ligature Ａ", "\u00a0nbsp\u3000wide",
        "١٢٣ 1234567890", "\x00", "a\x00b", "\x01\x02\x1f\x7f", "\u200b\u200e\ufeff", "\ufffd", "\U0010ffff", "<0x41>",
        "a <0x0A> b",
    ],
)  # fmt: skip
def test_captions_survive(text: TextTokenizer, caption: str) -> None:
    round_trip(text, caption)


@pytest.mark.parametrize("caption", ["▁", "a▁b", "▁ ▁", "▁▁ x", " ▁"])
def test_the_sign_that_sentencepiece_writes_for_a_space_survives(text: TextTokenizer, caption: str) -> None:
    round_trip(text, caption)


def test_every_character_survives(text: TextTokenizer) -> None:
    """All of Unicode except surrogates, which UTF-8 does not have, and U+2581, which has its own test."""
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code != 0x2581]
    for start in range(0, len(characters), 4096):
        caption = "".join(characters[start : start + 4096])
        assert text.decode(text.encode(caption)) == caption, f"from U+{ord(caption[0]):04X}"


@pytest.mark.parametrize("seed", range(20))
def test_random_unicode_survives(text: TextTokenizer, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranges = [(0, 32), (32, 127), (127, 0x250), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (0x600, 0x6FF), (32, 33)]
    for _ in range(20):
        picked = [ranges[number] for number in rng.integers(0, len(ranges), rng.integers(1, 40))]
        round_trip(text, "".join(chr(rng.integers(low, high)) for low, high in picked))


@pytest.mark.parametrize("word", ["<pad>", "<unk>", "<s>", "</s>", "<eov>", " </s>", "a<s>b", "<eov><eov>"])
def test_control_symbols_cannot_be_spelled(text: TextTokenizer, word: str) -> None:
    ids = text.encode(word)
    assert not {PAD, UNK, BOS, EOS, EOV} & set(ids)
    assert text.decode(ids) == word


def test_control_symbols_in_the_training_captions_do_not_help_either() -> None:
    text = TextTokenizer.train(["a </s> b <eov> <pad> <s>"] * 20, 300)
    test_control_symbols_cannot_be_spelled(text, "a </s> b <eov> <pad> <s>")


def test_training_is_reproducible_to_the_byte() -> None:
    assert TextTokenizer.train(CAPTIONS, 330).model == TextTokenizer.train(iter(CAPTIONS), 330).model


@pytest.mark.parametrize("captions", [["a"], ["x y"], ["🎬"], CAPTIONS, ["", "one", ""]])
def test_a_small_corpus_gets_the_pieces_it_has(captions: list[str]) -> None:
    text = TextTokenizer.train(captions, 32000)
    assert SMALLEST_VOCABULARY <= text.size < 32000
    for caption in [*captions, "something else 東"]:
        round_trip(text, caption)


def test_a_large_corpus_fills_the_vocabulary() -> None:
    rng = np.random.default_rng(0)
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, 6)) for _ in range(400)]
    assert TextTokenizer.train([" ".join(rng.choice(words, 8)) for _ in range(200)], 600).size == 600


@pytest.mark.parametrize("long", ["the quick brown fox " * 300, "一只猫在" * 1200, "x" * 200_000], ids=["words", "CJK", "word"])
def test_long_captions_are_learned_from(long: str) -> None:
    """The trainer itself leaves out lines of more than 4,192 bytes."""
    alone = TextTokenizer.train([long + str(k) for k in range(3)], 300)
    mixed = TextTokenizer.train([long, "short"], 300)
    for text in (alone, mixed):
        assert len(text.encode(long)) < len(long) / 2
        round_trip(text, long)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("cut \ud83d", "cut \ufffd"), ("\udc00 cut", "\ufffd cut"), ("\ud83d\ude00", "😀"), ("\udc00\ud800", "\ufffd\ufffd"),
        ("\ud83d東", "\ufffd東"),
    ],
)  # fmt: skip
def test_half_of_a_surrogate_pair_is_replaced(text: TextTokenizer, caption: str, expected: str) -> None:
    assert text.decode(text.encode(caption)) == expected
    assert TextTokenizer.train([caption, *CAPTIONS], 400).model == TextTokenizer.train([expected, *CAPTIONS], 400).model


def test_captions_with_nuls_are_learned_from() -> None:
    text = TextTokenizer.train(["\0a red circle\0", "\0"] * 20, 400)
    assert len(text.encode("a red circle")) <= 3
    with pytest.raises(ConfigError, match="caption"):
        TextTokenizer.train(["\0", ""], 400)


def test_refused_training() -> None:
    with pytest.raises(ConfigError, match="caption"):
        TextTokenizer.train(["", ""], 400)
    with pytest.raises(ConfigError, match=r"260 .* 261"):
        TextTokenizer.train(CAPTIONS, 260)


def test_saved_and_loaded(text: TextTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "text.model"
    text.save(path)
    again = TextTokenizer.load(path)
    assert again.model == text.model
    assert again.encode(CAPTIONS[0]) == text.encode(CAPTIONS[0])


def test_foreign_models_are_refused(tmp_path: Path) -> None:
    foreign = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS), model_writer=foreign, vocab_size=40, model_type="bpe", minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="control symbols"):
        TextTokenizer(foreign.getvalue())
    for junk in (b"", b"no model", bytes(1000)):
        (tmp_path / "junk.model").write_bytes(junk)
        with pytest.raises(ConfigError, match=r"junk\.model: "):
            TextTokenizer.load(tmp_path / "junk.model")
    with pytest.raises(ConfigError, match=r"none\.model: "):
        TextTokenizer.load(tmp_path / "none.model")
