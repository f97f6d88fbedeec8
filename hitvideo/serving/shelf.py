"""Drawn videos that the page can show: in memory, by random ids, and not too many of them."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from hitvideo.generation.record import Record

MOST_VIDEOS, MOST_BYTES = 256, 512 << 20


@dataclass(frozen=True)
class Kept:
    """One video."""

    record: Record
    mp4: bytes


class Shelf:
    """Videos by id. Those that nobody has asked for the longest leave when there are too many, or they take too much.

    An id is 128 random bits: who has it was given it.
    """

    def __init__(self, most: int = MOST_VIDEOS, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes, self._bytes = most, most_bytes, 0
        self._videos: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, video: Kept) -> str:
        """Keep a video; returns its id. The newest one is kept whatever it takes."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._videos[name] = video
            self._bytes += len(video.mp4)
            while len(self._videos) > 1 and (len(self._videos) > self._most or self._bytes > self._most_bytes):
                self._bytes -= len(self._videos.popitem(last=False)[1].mp4)
        return name

    def get(self, name: str) -> Kept | None:
        """The video, or None if it is not here or no longer."""
        with self._lock:
            if name in self._videos:
                self._videos.move_to_end(name)
            return self._videos.get(name)

    def drop(self, names: Sequence[str]) -> None:
        """Forget these videos."""
        with self._lock:
            for name in names:
                video = self._videos.pop(name, None)
                self._bytes -= len(video.mp4) if video else 0
