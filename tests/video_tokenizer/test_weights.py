"""Weights of earlier versions load: their settings call the clip's shape `video`, and their fingerprint is of that name."""

from __future__ import annotations

from pathlib import Path

import pytest

from hitvideo.errors import ConfigError
from hitvideo.settings.video_tokenizer import VideoTokenizerSection
from hitvideo.video_tokenizer.model import VideoTokenizer
from hitvideo.video_tokenizer.weights import CONFIG_FILE, SavedConfig, load_video_tokenizer, save_video_tokenizer
from tests.samples import tiny_hierarchy

SECTION = VideoTokenizerSection(patch=4, channels=(8, 8, 8), latent_channels=4, blocks=1)
FIRST_FINGERPRINT = "f2bc663daab1cc48"  # what the first version recorded for these settings


def test_the_fingerprint_of_the_settings_has_not_changed() -> None:
    hierarchy, clip = tiny_hierarchy()
    section = SECTION.model_copy(update={"level_path": "mean"})
    assert SavedConfig(clip=clip, hierarchy=hierarchy, video_tokenizer=section).fingerprint == FIRST_FINGERPRINT


@pytest.mark.parametrize("line", ["level_path: mean", "norm: frame"])
def test_weights_older_than_a_setting_load(tmp_path: Path, line: str) -> None:
    hierarchy, clip = tiny_hierarchy()
    section = SECTION.model_copy(update={"level_path": "mean"})
    save_video_tokenizer(VideoTokenizer(section, hierarchy), tmp_path, clip)
    settings = tmp_path / CONFIG_FILE
    assert line in settings.read_text()
    settings.write_text(settings.read_text().replace(f"  {line}\n", ""))
    assert load_video_tokenizer(tmp_path)[0].section == section


def test_weights_are_not_read_with_another_norm(tmp_path: Path) -> None:
    hierarchy, clip = tiny_hierarchy()
    section = SECTION.model_copy(update={"norm": "layer"})
    save_video_tokenizer(VideoTokenizer(section, hierarchy), tmp_path, clip)
    assert load_video_tokenizer(tmp_path)[0].section == section
    settings = tmp_path / CONFIG_FILE
    settings.write_text(settings.read_text().replace("  norm: layer\n", ""))
    with pytest.raises(ConfigError, match=CONFIG_FILE):
        load_video_tokenizer(tmp_path)


def test_settings_with_the_old_key_load_and_others_do_not(tmp_path: Path) -> None:
    hierarchy, clip = tiny_hierarchy()
    save_video_tokenizer(VideoTokenizer(SECTION, hierarchy), tmp_path, clip)
    settings = tmp_path / CONFIG_FILE
    settings.write_text(settings.read_text().replace("clip:", "video:", 1))
    assert load_video_tokenizer(tmp_path)[1] == clip
    settings.write_text(settings.read_text().replace("frames: 8", "frames: 16", 1))
    with pytest.raises(ConfigError, match=CONFIG_FILE):
        load_video_tokenizer(tmp_path)
