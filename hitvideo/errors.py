"""What is wrong with a video. Apart from the decoder, so that whoever only counts reasons need not load it."""

from __future__ import annotations


class VideoError(ValueError):
    """A video that cannot be used. `reason` is a short stable word to count by; the message names file and finding.

    Reasons: missing, empty, corrupt, no_video, no_decoder, too_large, too_long, too_short, bad_metadata,
    no_caption, memory_limit; and from the offline job long_key, time_limit, crashed.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both in args: the error crosses process borders by pickle
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message
