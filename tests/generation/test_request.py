"""What is asked of a generation is checked, and what does not fit is said."""

from __future__ import annotations

import logging

import pytest

from hitvideo.errors import ConfigError
from hitvideo.generation.request import LARGEST_SEED, check_request, tell_what_is_lost
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
        tell_what_is_lost([fits, "", " ", "one two three", "word " * 20_000, *[""] * 10], text, window)
    said = [record.getMessage() for record in caplog.records]
    assert [message[:8] for message in said] == ["prompt 2", "prompt 3", "prompt 4", "prompt 5", "prompt 6", "and 9 mo"]
    assert "'" + text.decode(text.encode("one two three")[window - 2 :]) + "'" in said[2]
    assert f"{len(ids)} pieces" in said[3]
    assert max(map(len, said)) < 400
