"""HiTVideo: pretrain a text-to-video language model on hierarchical video tokens, and use it.

The names below are the Python API (hitvideo/api.py). They are imported when first used, so that `import hitvideo` is light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hitvideo.errors import HiTVideoError

if TYPE_CHECKING:
    from hitvideo.api import (
        Run,
        TrainedVideoTokenizer,
        Video,
        load_run,
        load_video_tokenizer,
        open_tokens,
        read_video,
        write_video,
    )

__all__ = [
    "HiTVideoError",
    "Run",
    "TrainedVideoTokenizer",
    "Video",
    "load_run",
    "load_video_tokenizer",
    "open_tokens",
    "read_video",
    "write_video",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("hitvideo.api"), name)
    raise AttributeError(f"module 'hitvideo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
