"""What is asked of a generation: prompts, seed and levels, checked before any weights are loaded. No torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hitvideo.errors import ConfigError, short

if TYPE_CHECKING:
    from hitvideo.sequence.text import TextTokenizer

log = logging.getLogger(__name__)
LARGEST_SEED = (1 << 63) - 1
_MOST_LINES = 5


def check_request(prompts: Sequence[str], seed: int, levels: int | None, most_levels: int) -> None:
    """Raise ConfigError for a prompt that is not text, a seed that no generator takes, or levels the run does not have."""
    for number, prompt in enumerate(prompts, 1):
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"prompt {number} is not UTF-8 at character {error.start + 1}; convert it") from None
    if not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(f"seed is {short(seed)}; it must be 0 to {LARGEST_SEED}")
    if levels is not None and not 1 <= levels <= most_levels:
        raise ConfigError(f"levels is {short(levels)}; the run has {most_levels} levels, ask for 1 to {most_levels}")


def what_is_lost(prompts: Sequence[str], text: TextTokenizer, window: int) -> list[str]:
    """Which prompts are empty, and which do not fit the row's text window of `window` slots, BOS and EOS included: one line
    each."""
    lines = []
    for number, prompt in enumerate(prompts, 1):
        pieces = text.encode(prompt)
        kept = len(pieces[: window - 2])
        if not prompt.strip():
            lines.append(f"prompt {number} is empty: its video is drawn without a caption")
        elif kept < len(pieces):
            lines.append(
                f"prompt {number} has {len(pieces)} pieces of text, the run's text.window {window} takes {kept}: "
                f"{1 - kept / len(pieces):.0%} is left out, from '{short(text.decode(pieces[kept:]))}' on"
            )
    return lines


def tell_what_is_lost(prompts: Sequence[str], text: TextTokenizer, window: int) -> None:
    """Log it, the first lines of many."""
    lines = what_is_lost(prompts, text, window)
    for line in lines[:_MOST_LINES]:
        log.warning("%s", line)
    if len(lines) > _MOST_LINES:
        log.warning("and %d more prompts are empty or cut", len(lines) - _MOST_LINES)
