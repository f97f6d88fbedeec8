"""The cache's size is known beforehand, and a limit is kept: more videos than it holds are drawn in parts."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from hitvideo.errors import ConfigError
from hitvideo.generation.generator import Generator, averaged
from hitvideo.generation.memory import GIB, bytes_per_video, chunks, videos_at_once
from hitvideo.generation.noise import noise_bytes
from hitvideo.generation.record import Fingerprints
from hitvideo.generation.sampling import Sampling
from hitvideo.hierarchy import ClipShape
from hitvideo.llm.cache import KVCache
from tests.generation.models import PROMPTS, TEXT, random_model

MODEL = random_model()
GENERATOR = Generator(MODEL, TEXT, cast(Any, None), ClipShape(frames=8, height=32, width=32, fps=8), Fingerprints("w", "v"))
CPU = torch.device("cpu")


@pytest.fixture
def largest(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every cache that is made."""
    made: list[int] = []
    new_cache = MODEL.new_cache

    def watched(batch: int, length: int | None = None) -> KVCache:
        cache = new_cache(batch, length)
        made.append(cache._store.untyped_storage().nbytes())
        return cache

    monkeypatch.setattr(MODEL, "new_cache", watched)
    return made


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_limit_holds_with_64_prompts(largest: list[int], guidance: float) -> None:
    sampling = Sampling(guidance=guidance, temperature=1.0)
    prompts = [f"{PROMPTS[number % 3]} {number}" for number in range(64)]
    each = bytes_per_video(MODEL, sampling, 3)
    tokens: list[int] = []
    whole = GENERATOR.codes(prompts, sampling, 3, memory_gib=1.0)
    (together,) = largest
    assert together + 64 * noise_bytes(MODEL.layout, 3) == 64 * each, "known beforehand"
    largest.clear()
    parts = GENERATOR.codes(prompts, sampling, 3, progress=tokens.append, memory_gib=10.5 * each / GIB)
    assert len(largest) == 7
    assert max(largest) + 10 * noise_bytes(MODEL.layout, 3) <= 10.5 * each
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert sum(tokens) == GENERATOR.tokens(3)


def test_fewer_levels_take_less(largest: list[int]) -> None:
    GENERATOR.codes(["a"], Sampling(), levels=1)
    GENERATOR.codes(["a"], Sampling())
    assert largest[0] * MODEL.layout.starts[4] == largest[1] * MODEL.layout.starts[1]


def test_a_limit_that_holds_no_video_is_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"memory-gib is 1e-05; one video takes .* GiB"):
        GENERATOR.codes(["a"], Sampling(), memory_gib=1e-5)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="memory-gib"):
            videos_at_once(1, wrong, CPU)
    assert videos_at_once(1 << 60, None, CPU) == 1
    assert videos_at_once(1 << 20, None, CPU) > 1


@pytest.mark.parametrize(("count", "most"), [(64, 10), (1, 5), (5, 5), (7, 1), (11, 10)])
def test_parts_are_even_and_none_is_too_large(count: int, most: int) -> None:
    parts = [list(part) for part in chunks(range(count), most)]
    assert [place for part in parts for place in part] == list(range(count))
    assert max(map(len, parts)) <= most
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_progress_is_averaged_over_videos() -> None:
    told: list[int] = []
    tell = averaged(told.append, 7)
    for part in (3, 2, 2):
        for gained in (4, 1, 9):
            tell(gained * part)
    assert sum(told) == 14
