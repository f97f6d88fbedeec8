"""The samples that a loader could not use: each is reported once and remembered, and not too many may be damaged."""

from __future__ import annotations

import logging

from hitvideo.errors import ShardError, VideoError

FREE = 16
"""Damaged samples that are allowed besides the share, so that a small dataset survives a few, and a start bad luck."""

log = logging.getLogger(__name__)


class DamageRecord:
    """Place in the samples drawn from → what is wrong there."""

    def __init__(self, samples: int, most: float) -> None:
        """`samples`: how many there are to draw from; `most`: share of those drawn that may be damaged."""
        self.drawn = 0
        """Draws so far."""
        self._samples = samples
        self._most = most
        self._found: dict[int, str] = {}
        self._damaged: set[int] = set()
        self._counted: set[int] = set()
        self._reported: set[str] = set()

    def __contains__(self, place: int) -> bool:
        return place in self._found

    def __getitem__(self, place: int) -> str:
        return self._found[place]

    def add(self, place: int, error: ShardError | VideoError) -> None:
        """Remember a sample that cannot be used."""
        if place in self._found:
            return
        self._found[place] = message = str(error)
        if isinstance(error, ShardError):  # else it is as it was written, and no use for training: not damage
            self._damaged.add(place)
        if message not in self._reported:  # a missing tar is one message for all of its samples
            self._reported.add(message)
            log.warning("replaced a damaged sample: %s", message)

    def count(self, place: int) -> None:
        """Count a sample that was drawn and is replaced. Raises ShardError if too many of those drawn are damaged."""
        if place in self._counted or place not in self._damaged:
            return
        self._counted.add(place)
        seen = min(self.drawn, self._samples)
        if len(self._counted) > FREE + self._most * seen:
            raise ShardError(
                f"{len(self._counted)} of {seen} samples are damaged, above faults.most_damaged {self._most:g}; restore the "
                f"shards, or raise the limit; the last: {self._found[place]}"
            )
