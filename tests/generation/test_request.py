"""What is asked of a generation is checked, and what does not fit is said."""

from __future__ import annotations

import logging

import pytest

from hitvideo.errors import ConfigError
from hitvideo.generation.request import LARGEST_SEED, check_request, tell_remarks, unknown_words
from hitvideo.sequence.text import TextTokenizer


@pytest.mark.parametrize(
    ("prompts", "seed", "levels", "message"),
    [
        (["fine", "caf\udce9"], 0, None, r"prompt 2 .*character 4"),
        (["a"], -1, None, "seed is -1"),
        (["a"], 2**63, None, f"seed is {2**63}.*{LARGEST_SEED}"),
        (["a"], 10**4000, None, "seed is 1000"),
        (["a"], 0, 0, "levels is 0; .*4"),
        (["a"], 0, 5, "levels is 5; .*4"),
        (["a"], 0, -1, "levels is -1; .*4"),
    ],
)
def test_refused(prompts: list[str], seed: int, levels: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_request(prompts, seed, levels, 4)
    assert len(str(caught.value)) < 400


def test_taken() -> None:
    check_request(["", "a\0b", "\u202e🎬 東京", "x" * 100_000], LARGEST_SEED, 4, 4)


def test_what_is_lost_is_said_once_a_prompt_and_never_whole(caplog: pytest.LogCaptureFixture) -> None:
    text = TextTokenizer.train(["one two three four five six seven eight nine ten"] * 3, 400)
    fits, ids = "one two", text.encode("word " * 20_000)
    window = 2 + len(text.encode(fits))
    with caplog.at_level(logging.WARNING):
        tell_remarks([fits, "", " ", "one two three", "word " * 20_000, *[""] * 10], text, window, text.size)
    said = [record.getMessage() for record in caplog.records]
    assert [message[:8] for message in said] == ["prompt 2", "prompt 3", "prompt 4", "prompt 5", "prompt 6", "and 9 mo"]
    assert "'" + text.decode(text.encode("one two three")[window - 2 :]) + "'" in said[2]
    assert f"{len(ids)} pieces" in said[3]
    assert max(map(len, said)) < 400


CAPTIONS = ["a red circle moves right", "Two small boats, drawn by hand", "(a) blue boat's über-long 3x sail"]


def test_every_word_of_the_captions_is_known() -> None:
    """The oracle is the captions' own words, whatever is before and behind them."""
    text = TextTokenizer.train(CAPTIONS, 2000)
    assert text.size < 2000
    for caption in CAPTIONS:
        assert not list(unknown_words(caption, text, 2000)), caption
    assert not list(unknown_words("right. moves! circle (red) Two boats' sail über hand drawn", text, 2000))


def test_words_that_no_caption_has_are_named_once_and_in_order(caplog: pytest.LogCaptureFixture) -> None:
    text = TextTokenizer.train(CAPTIONS, 2000)
    prompt = "a zebra moves, Red boat, zebra 17 東京 " + "x" * 30
    assert list(unknown_words(prompt, text, 2000)) == ["zebra", "Red"]
    tell_remarks(["a red boat", prompt], text, 200, 2000)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("prompt 2")
    assert said.endswith("zebra, Red")


def test_nothing_is_said_where_it_cannot_be_known() -> None:
    """The vocabulary is full: common words only are one piece."""
    text = TextTokenizer.train(CAPTIONS, 295)
    assert text.size == 295
    assert not list(unknown_words("a zebra", text, 295))
