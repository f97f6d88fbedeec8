"""Damaged samples are reported once, remembered, and limited."""

from __future__ import annotations

import logging

import pytest

from hitvideo.data.damage import FREE, DamageRecord
from hitvideo.errors import ShardError, VideoError


def record(drawn: int, samples: int = 10**6, most: float = 0.01) -> DamageRecord:
    found = DamageRecord(samples, most)
    found.drawn = drawn
    return found


def add(damage: DamageRecord, count: int) -> None:
    for place in range(count):
        damage.add(place, ShardError(f"sample {place}"))
        damage.count(place)
        damage.count(place)


def test_each_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    damage = record(1000)
    with caplog.at_level(logging.WARNING):
        for place in (3, 4, 3, 3, 4):
            damage.add(place, ShardError(f"sample {place} is damaged"))
        for place in range(100, 108):
            damage.add(place, ShardError("000001.tar: no such file"))
    assert [message.rpartition(": ")[2] for message in caplog.messages] == [
        "sample 3 is damaged", "sample 4 is damaged", "no such file",
    ]  # fmt: skip
    assert 3 in damage
    assert damage[3] == "sample 3 is damaged"
    assert 5 not in damage


@pytest.mark.parametrize(
    ("drawn", "samples", "most", "allowed"),
    [(10, 26, 0.01, 0), (10**9, 26, 0.01, 0), (10_000, 10**6, 0.01, 100), (10**9, 5000, 0.1, 500), (10**6, 10**6, 0.0, 0)],
)
def test_a_share_of_those_drawn_is_allowed(drawn: int, samples: int, most: float, allowed: int) -> None:
    """Of a set drawn many times over, a share of the set: the same sample does not count twice."""
    allowed += FREE
    add(record(drawn, samples, most), allowed)
    with pytest.raises(ShardError, match=rf"{allowed + 1} of .*faults\.most_damaged {most:g}.*sample {allowed}"):
        add(record(drawn, samples, most), allowed + 1)


def test_videos_that_cannot_be_used_are_no_damage() -> None:
    damage = record(100)
    for place in range(90):
        damage.add(place, VideoError("too_short", f"video {place}"))
        damage.count(place)


def test_neighbours_that_were_only_tried_do_not_count() -> None:
    damage = record(100, most=0.0)
    for place in range(90):
        damage.add(place, ShardError(f"sample {place}"))
    for place in range(FREE):
        damage.count(place)
    with pytest.raises(ShardError, match=rf"{FREE + 1} of 100"):
        damage.count(FREE)
