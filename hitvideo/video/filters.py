"""One FFmpeg filter at a time, for frames of one size and format."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
from av.filter import Graph


class Filter:
    """The filter `name` with its options. It may give frames later than it takes them."""

    def __init__(self, name: str, options: str, frame: Any, tick: Fraction) -> None:
        """For frames like `frame`, with timestamps in units of `tick` seconds."""
        self._graph = Graph()
        source = self._graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=tick)
        self._graph.link_nodes(source, self._graph.add(name, options), self._graph.add("buffersink")).configure()

    def push(self, frame: Any) -> list[Any]:
        """Give a frame, or None at the end; returns the frames that are ready."""
        self._graph.vpush(frame)
        ready = []
        while True:
            try:
                ready.append(self._graph.vpull())
            except (av.BlockingIOError, av.EOFError):
                return ready
