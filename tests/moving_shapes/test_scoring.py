"""Scores against hand-counted cases."""

from hitvideo.moving_shapes.scenes import Scene, Thing
from hitvideo.moving_shapes.scoring import ATTRIBUTES, CHANCE, accuracy, confusion, counts, shares

RED, BLUE = Thing("red", "circle", "up"), Thing("blue", "square", "still")


def test_accuracy_matches_and_counts_what_is_missing() -> None:
    truth = [Scene((RED, BLUE), "black")]
    assert set(accuracy(truth, [Scene((BLUE, RED), "black")]).values()) == {1.0}
    assert accuracy(truth, [None]) == dict.fromkeys(CHANCE, 0)
    half = accuracy(truth, [Scene((BLUE,), "white")])
    assert half == {"colour": 0.5, "shape": 0.5, "motion": 0.5, "background": 0}
    assert accuracy([], []) == dict.fromkeys(CHANCE, 0)


def test_a_second_thing_is_wrong_and_spoils_the_video() -> None:
    found = counts([Scene((RED,), "black")] * 2, [Scene((RED, BLUE), "black"), Scene((RED,), "black")])
    assert found == {"colour": (2, 3), "shape": (2, 3), "motion": (2, 3), "background": (2, 2), "all_right": (1, 2)}


def test_all_right_needs_every_attribute() -> None:
    wrong = [Scene((Thing("red", "cross", "up"),), "black"), Scene((RED,), "grey"), None]
    found = shares([Scene((RED,), "black")] * 4, [*wrong, Scene((RED,), "black")])
    assert found["all_right"]["rate"] == 0.25
    assert found["shape"]["rate"] == 0.5
    assert found["background"]["rate"] == 0.5
    assert all(each["low"] < each["rate"] < each["high"] for each in found.values())


def test_confusion_says_what_was_read_instead() -> None:
    truth = [Scene((RED,), "black")] * 4
    found = [Scene((RED,), "black"), Scene((Thing("red", "square", "up"),), "black"), None, Scene((RED, BLUE), "black")]
    tables = confusion(truth, found)
    assert tables["shape"] == {"circle": {"circle": 2, "missing": 1, "square": 1}, "extra": {"square": 1}}
    assert tables["background"] == {"black": {"black": 3, "missing": 1}}
    assert set(tables) == set(ATTRIBUTES)
