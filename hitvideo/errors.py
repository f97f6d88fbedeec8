"""The errors that users can act on, under one root. Each message names the file or key, what was found, and the fix."""

from __future__ import annotations


def short(value: object, most: int = 200) -> str:
    """The text of a value for a message: its first `most` characters, and how many more there are."""
    text = str(value)
    return text if len(text) <= most else f"{text[:most]}… and {len(text) - most:,} more characters"


class HiTVideoError(Exception):
    """Root of this package's errors. Programs and commands print one as a single line and exit with 2."""


class ConfigError(HiTVideoError, ValueError):
    """A setting, a file or an installation the user can fix."""


class ShardError(HiTVideoError, ValueError):
    """A shard, or a sample in it, that cannot be read or differs from its receipt. Names the file and what was found."""


class VideoError(HiTVideoError, ValueError):
    """A video that cannot be used. `reason` is a short stable word to count by; the message names file and finding.

    Reasons: missing, empty, corrupt, no_video, no_decoder, too_large, too_long, too_short, bad_metadata,
    no_caption, unsupported, memory_limit; and from the offline job long_key, time_limit, crashed.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)  # both in args: the error crosses process borders by pickle
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message
