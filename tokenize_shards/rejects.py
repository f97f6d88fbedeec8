"""The share of videos that may be rejected. Beyond it, the job, not the videos, is likely to be wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from hitvideo.errors import ShardError

NOT_COUNTED = frozenset({"download_failed"})  # no video was there to be rejected
_ENOUGH = 64  # videos before a running task judges


class TooManyRejectsError(ShardError):
    """More videos than `task.most_rejected` are rejected."""


class RejectShare:
    """Counts videos and their rejects by reason."""

    def __init__(self, most: float) -> None:
        self.most = most
        self.videos = 0
        self.reasons: Counter[str] = Counter()
        self.example = ""

    def take(self, videos: int, reasons: Mapping[str, int], example: str = "") -> None:
        """Count `videos`, of which some were rejected."""
        self.videos += videos - sum(reasons.get(reason, 0) for reason in NOT_COUNTED)
        self.reasons.update({reason: count for reason, count in reasons.items() if reason not in NOT_COUNTED})
        self.example = self.example or example

    def check(self, at_least: int = _ENOUGH) -> None:
        """Raise TooManyRejectsError if the share is too large, judged from so many videos on."""
        rejected = self.reasons.total()
        if self.videos < at_least or rejected <= self.most * self.videos:
            return
        listed = ", ".join(f"{reason} {count}" for reason, count in self.reasons.most_common(8))
        raise TooManyRejectsError(
            f"{rejected} of {self.videos} videos are rejected, more than task.most_rejected {self.most:g} allows: {listed}"
            + (f"; for example: {self.example}" if self.example else "")
            + "; fix the settings or the videos, or raise task.most_rejected if this is right"
        )
