"""What a generated video keeps of its making: its codes, and everything that they are a function of.

It is one JSON object: the tag `hitvideo` of the MP4 and, until the MP4 is written, a file NAME.codes next to it. Both may come
from somebody else, so sizes, ranges and kinds are checked before anything is used.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from hitvideo.errors import ConfigError, VideoError, short
from hitvideo.files import replace_file
from hitvideo.generation.request import LARGEST_SEED
from hitvideo.generation.sampling import Sampling, sampling_from
from hitvideo.video.tags import read_tags

TAG, SUFFIX, FORMAT = "hitvideo", ".codes", 1
LARGEST_RECORD = 16 << 20
MOST_LEVELS, MOST_BITS, MOST_CELLS = 64, 30, 1 << 22
LONGEST_TEXT = 1 << 20


@dataclass(frozen=True)
class Fingerprints:
    """Which models made a video."""

    weights: str
    """Of the language model with its text tokenizer: what the codes depend on."""
    video_tokenizer: str


@dataclass(frozen=True)
class Record:
    """The making of one video."""

    prompt: str
    seed: int
    sampling: Sampling
    made_by: Fingerprints
    codes: Sequence[np.ndarray]
    """Indices of the first levels, each (t, h, w)."""
    num_bits: Sequence[int]
    """Bits of an index, of each of these levels."""
    version: str = version("hitvideo")

    def to_json(self) -> str:
        """The tag's text."""
        levels = [
            {"grid": list(indices.shape), "num_bits": bits, "indices": _packed(indices, bits)}
            for indices, bits in zip(self.codes, self.num_bits, strict=True)
        ]
        content = {
            "format": FORMAT, "version": self.version, "prompt": self.prompt, "seed": self.seed,
            "sampling": self.sampling.as_dict(), "weights": self.made_by.weights,
            "video_tokenizer": self.made_by.video_tokenizer, "levels": levels,
        }  # fmt: skip
        return json.dumps(content)

    def save(self, path: Path) -> None:
        """Write NAME.codes."""
        replace_file(path, self.to_json())

    def with_codes(self, codes: Sequence[np.ndarray], num_bits: Sequence[int]) -> Record:
        """The same making with more levels, or fewer."""
        return replace(self, codes=codes, num_bits=num_bits[: len(codes)])

    def lines(self) -> list[str]:
        """What `hitvideo show` prints."""
        settings = [f"{name}: {value}" for name, value in self.sampling.as_dict().items()]
        grids = [f"level {k}: {'×'.join(map(str, c.shape))} of {b} bits" for k, (c, b) in enumerate(self._levels())]
        made = [f"weights: {self.made_by.weights}", f"video_tokenizer: {self.made_by.video_tokenizer}"]
        return [f"prompt: {self.prompt}", f"seed: {self.seed}", *settings, *made, f"version: {self.version}", *grids]

    def _levels(self) -> list[tuple[np.ndarray, int]]:
        return list(zip(self.codes, self.num_bits, strict=True))


def read_record(path: Path) -> Record:
    """The record in an MP4's tag, or in a NAME.codes file. Raises ConfigError, or VideoError for a damaged video."""
    if path.suffix == SUFFIX:
        try:
            if path.stat().st_size > LARGEST_RECORD:
                raise ConfigError(f"{path}: larger than {LARGEST_RECORD} bytes, so it is not a file of codes")
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{short(path)}: cannot be read: {short(error)}") from error
        return parse_record(text, str(path))
    found = {name.lower(): text for name, text in read_tags(path).items()}.get(TAG)
    if found is None:
        raise ConfigError(f"{path}: has no tag '{TAG}'; only files that `hitvideo generate` wrote keep their settings")
    return parse_record(found, str(path))


def parse_record(text: str, label: str) -> Record:
    """The inverse of `to_json`, for a text of any origin. Raises ConfigError that begins with `label`."""
    try:
        if len(text) > LARGEST_RECORD:
            raise ConfigError(f"its tag has {len(text)} characters, more than {LARGEST_RECORD}")
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ConfigError("its tag is not a JSON object")
        if content.get("format") != FORMAT:
            raise ConfigError(f"its tag has format {short(content.get('format'))}, this version reads {FORMAT}")
        return _record(content)
    except (ValueError, RecursionError, VideoError) as error:
        raise ConfigError(f"{short(label)}: damaged settings of a generated video: {short(error)}") from error


def _record(content: dict[str, Any]) -> Record:
    texts = [content.get(name) for name in ("prompt", "weights", "video_tokenizer", "version")]
    for name, text in zip(("prompt", "weights", "video_tokenizer", "version"), texts, strict=True):
        if not isinstance(text, str) or len(text) > LONGEST_TEXT:
            raise ConfigError(f"'{name}' must be a text")
    seed, settings, levels = (content.get(name) for name in ("seed", "sampling", "levels"))
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(f"seed is {short(seed)}; it must be 0 to {LARGEST_SEED}")
    if not isinstance(settings, dict):
        raise ConfigError("'sampling' must be an object")
    if not isinstance(levels, list) or not 1 <= len(levels) <= MOST_LEVELS or not all(isinstance(x, dict) for x in levels):
        raise ConfigError(f"'levels' must be a list of 1 to {MOST_LEVELS} objects")
    pairs = [_level(each) for each in levels]
    prompt, weights, video_tokenizer, made_with = (str(text) for text in texts)
    made_by = Fingerprints(weights, video_tokenizer)
    codes, num_bits = [codes for codes, _ in pairs], [bits for _, bits in pairs]
    return Record(prompt, seed, sampling_from(settings), made_by, codes, num_bits, made_with)


def _level(found: dict[str, Any]) -> tuple[np.ndarray, int]:
    grid, bits, text = found.get("grid"), found.get("num_bits"), found.get("indices")
    if not isinstance(grid, list) or len(grid) != 3 or not all(type(n) is int and 1 <= n <= MOST_CELLS for n in grid):
        raise ConfigError(f"a grid is {short(grid)}; it must be three whole numbers")
    cells = math.prod(grid)
    if cells > MOST_CELLS or type(bits) is not int or not 1 <= bits <= MOST_BITS or not isinstance(text, str):
        raise ConfigError(f"a level has {short(cells)} cells of {short(bits)} bits; at most {MOST_CELLS} of {MOST_BITS}")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"indices are not base64: {error}") from error
    if len(data) != -(-cells * bits // 8):
        raise ConfigError(f"{len(data)} bytes of indices, {cells} cells of {bits} bits take {-(-cells * bits // 8)}")
    unpacked = np.unpackbits(np.frombuffer(data, np.uint8), count=cells * bits).reshape(cells, bits).astype(np.int64)
    return (unpacked << np.arange(bits - 1, -1, -1)).sum(1).reshape(grid), bits


def _packed(indices: np.ndarray, bits: int) -> str:
    """Indices one after the other, each in `bits` bits, most significant first; base64."""
    flat = np.asarray(indices, np.int64).reshape(-1, 1)
    return base64.b64encode(np.packbits((flat >> np.arange(bits - 1, -1, -1)) & 1).tobytes()).decode()
