"""H.264 as a baseline: its size stays within the budget, and more bytes give better quality."""

import numpy as np
import pytest

from hitvideo.video.h264 import h264_at
from hitvideo.video.pixels import Frames


@pytest.fixture(scope="module")
def video() -> Frames:
    """A smooth drifting pattern: partly predictable from the previous frame, partly new."""
    t, y, x = np.meshgrid(np.arange(16), np.arange(64), np.arange(64), indexing="ij")
    waves = [np.sin(x / 5 + t / 2 + k) * np.cos(y / 7 - t / 3 + 2 * k) for k in range(3)]
    return np.stack([(127 + 100 * wave) for wave in waves], axis=-1).astype(np.uint8)


def error(a: Frames, b: Frames) -> float:
    return float(np.square(a.astype(float) - b).mean())


def test_the_budget_is_kept_and_used(video: Frames) -> None:
    errors = []
    for budget in (700, 2000, 8000):
        decoded, size = h264_at(video, budget)
        assert decoded.shape == video.shape
        assert 0.5 * budget < size <= budget
        errors.append(error(decoded, video))
    assert errors[0] > errors[1] > errors[2]


def test_a_budget_too_small_for_any_quality_is_exceeded(video: Frames) -> None:
    decoded, size = h264_at(video, 10)
    assert size > 10
    assert decoded.shape == video.shape


def test_the_text_about_the_encoder_is_not_counted(video: Frames) -> None:
    """x264 writes about 600 bytes about its settings into every stream, more than the whole budget of these clips."""
    assert h264_at(np.zeros_like(video), 1000)[1] < 600
