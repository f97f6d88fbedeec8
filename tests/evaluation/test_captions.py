"""Caption evaluation: with a generator that draws perfectly, one that ignores its prompts, and one of random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hitvideo.errors import ConfigError
from hitvideo.evaluation.captions import caption_accuracy, caption_table, floor, hold_out_of
from hitvideo.generation.sampling import Sampling
from hitvideo.moving_shapes import probe, scoring
from hitvideo.moving_shapes.scenes import caption, is_held_out, parse, render, scenes
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer.model import VideoTokenizer
from tests.samples import tiny_hierarchy

HIERARCHY, CLIP = tiny_hierarchy()


class Painter:
    """Draws what each prompt, changed by `mistake`, asks for. Its codes are the numbers of its prompts."""

    clip = CLIP

    def __init__(self, mistake: Callable[[str], str] = str) -> None:
        torch.manual_seed(0)
        section = VideoTokenizerSection(patch=4, channels=(8, 12, 16), blocks=1, latent_channels=6)
        self.video_tokenizer = VideoTokenizer(section, HIERARCHY).eval()
        self.mistake = mistake
        self.prompts: list[str] = []

    def codes(self, prompts: Sequence[str], *_: Any, **__: Any) -> list[np.ndarray]:
        self.prompts = list(prompts)
        return [np.arange(len(prompts))]

    def decode(self, codes: Sequence[np.ndarray]) -> list[np.ndarray]:
        rng = np.random.default_rng(7)
        return [render(parse(self.mistake(self.prompts[number])), CLIP, rng) for number in codes[0]]


def measured(painter: Painter, num: int = 40, **more: Any) -> dict[str, Any]:
    return caption_accuracy(painter, num, Sampling(), 2, **more)[0]  # type: ignore[arg-type]


def test_perfect_videos_reach_the_ceiling_and_not_the_floor() -> None:
    figures = measured(Painter())
    assert min(figures["caption_accuracy"].values()) >= 0.97
    assert figures["all_right"] >= 0.95
    assert figures["ceiling"]["originals"]["all_right"]["rate"] >= 0.95
    assert len(figures["ceiling"]["by_prefix"]) == 4
    assert max(each["all_right"]["rate"] for each in figures["ceiling"]["by_prefix"]) < 0.3, "an untrained video tokenizer"
    assert figures["floor"]["all_right"]["rate"] < 0.1
    assert figures["floor"]["colour"]["rate"] < 0.5
    assert figures["intervals"]["all_right"][0] < figures["all_right"] <= figures["intervals"]["all_right"][1]
    assert figures["look"]["generated"]["start_spread"] == pytest.approx(figures["look"]["true"]["start_spread"], abs=0.06)
    json.dumps(figures)
    assert "GENERATED" in caption_table(figures)


def test_a_second_thing_counts_as_wrong() -> None:
    """Every video shows what it should and a second thing as well: half of the things are wrong, and every video."""

    def add(prompt: str) -> str:
        other = "yellow" if " yellow " not in prompt else "blue"
        return prompt.replace(" on a", f" and a {other} square stays still on a")

    figures = measured(Painter(add), 24)
    assert figures["all_right"] <= 0.1
    assert figures["too_many_things"] >= 22
    assert figures["caption_accuracy"]["colour"] == pytest.approx(0.5, abs=0.05)
    assert sum(figures["confusion"]["colour"]["extra"].values()) >= 22


def test_confusion_names_a_systematic_mistake() -> None:
    figures = measured(Painter(lambda prompt: prompt.replace("square", "circle")))
    assert set(figures["confusion"]["shape"]["square"]) == {"circle"}
    assert figures["caption_accuracy"]["shape"] < figures["caption_accuracy"]["colour"]


def test_the_floor_is_the_same_videos_with_each_others_captions() -> None:
    truth = [scene for _, scene, _ in scenes(6, 0, "1")]
    shown = floor(truth, truth)
    assert shown == scoring.shares([*truth[1:], truth[0]], truth)
    assert floor(truth[:1], truth[:1]) is None


def test_only_held_out_combinations_are_asked_for() -> None:
    painter = Painter()
    figures = measured(painter, 8, combinations="held-out", hold_out=0.2)
    assert all(is_held_out(parse(prompt), 0.2) for prompt in painter.prompts)
    assert (figures["combinations"], figures["hold_out"]) == ("held-out", 0.2)
    measured(painter, 8, combinations="seen", hold_out=0.2)
    assert not any(is_held_out(parse(prompt), 0.2) for prompt in painter.prompts)


def test_settings_are_recorded() -> None:
    figures = caption_accuracy(Painter(), 2, Sampling(guidance=2.0, temperature=0.5), 9)[0]  # type: ignore[arg-type]
    assert figures["sampling"]["guidance"] == 2.0
    assert figures["sampling"]["temperature"] == 0.5
    assert (figures["videos"], figures["seed"], figures["guidance"]) == (2, 9, 2.0)
    assert [caption(scene) for _, scene, _ in scenes(2, 9, "1")] == [caption(s) for _, s, _ in scenes(2, 9, "1", 0.0, "all")]
    assert probe.read(np.zeros((8, 32, 32, 3), np.uint8)) is None


def test_a_run_without_a_dataset_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run directory"):
        hold_out_of(tmp_path)
