"""Held-out combinations: chosen by a hash that does not change, absent from what is seen, present in what is held out."""

from itertools import product

import pytest

from hitvideo.errors import ConfigError
from hitvideo.moving_shapes.scenes import COLOURS, MOTIONS, SHAPES, Thing, check_hold_out, is_held_out, place, scenes

SHARE = 0.2
GOLDEN = "421deabe46408c63"  # printf "red circle up" | sha256sum


def test_the_choice_is_stable() -> None:
    """Datasets made years apart hold out the same combinations: the place is the hash of the words."""
    assert place(Thing("red", "circle", "up")) == int(GOLDEN, 16) / 2**64
    places = [place(Thing(*names)) for names in product(COLOURS, SHAPES, MOTIONS)]
    assert len(set(places)) == 120
    assert check_hold_out(SHARE) == sum(each < SHARE for each in places)
    assert 10 < check_hold_out(SHARE) < 40
    assert {each for each in places if each < 0.1} < {each for each in places if each < SHARE}


@pytest.mark.parametrize("objects", ["1", "mixed"])
def test_seen_and_held_out_share_no_combination(objects: str) -> None:
    seen = {thing for _, scene, _ in scenes(400, 0, objects, SHARE, "seen") for thing in scene.things}  # type: ignore[arg-type]
    assert not any(place(thing) < SHARE for thing in seen)
    assert len(seen) > 80
    held_out = [scene for _, scene, _ in scenes(60, 0, objects, SHARE, "held-out")]  # type: ignore[arg-type]
    assert all(is_held_out(scene, SHARE) for scene in held_out)


def test_without_a_choice_nothing_changes() -> None:
    """A dataset's bytes hang on this: the share alone redraws nothing."""
    assert [s for _, s, _ in scenes(30, 4, "mixed")] == [s for _, s, _ in scenes(30, 4, "mixed", SHARE, "all")]
    kept = dict(enumerate(s for _, s, _ in scenes(30, 4, "1")))
    redrawn = dict(enumerate(s for _, s, _ in scenes(30, 4, "1", SHARE, "seen")))
    assert {number for number in kept if kept[number] != redrawn[number]} == {
        number for number, scene in kept.items() if is_held_out(scene, SHARE)
    }


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 1e-9, float("nan")])
def test_shares_that_leave_nothing_are_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="of 120 combinations"):
        list(scenes(1, 0, "1", share, "held-out"))
