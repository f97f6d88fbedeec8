"""What is asked of a generation: prompts, seed and levels, checked before any weights are loaded. No torch."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hitvideo.errors import ConfigError, short

if TYPE_CHECKING:
    from hitvideo.sequence.text import TextTokenizer

log = logging.getLogger(__name__)
LARGEST_SEED = (1 << 63) - 1
_MOST_LINES, _MOST_WORDS = 5, 5
_SPACED = ("LATIN", "GREEK", "CYRILLIC")  # scripts that write words apart
_LONGEST_WORD = 15  # letters: a piece of sentencepiece has 16 characters, the space before the word among them


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


def remarks(prompts: Sequence[str], text: TextTokenizer, window: int, vocab_size: int) -> list[str]:
    """What is to be said of prompts, a line each: which are empty, which do not fit the row's text window of `window` slots,
    BOS and EOS included, and which hold words that the captions never had. `vocab_size`: text.vocab_size of the run.
    """
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
        if words := list(unknown_words(prompt, text, vocab_size)):
            more = f" and {len(words) - _MOST_WORDS} more" if len(words) > _MOST_WORDS else ""
            lines.append(f"prompt {number}: the training captions never had {', '.join(words[:_MOST_WORDS])}{more}")
    return lines


def unknown_words(prompt: str, text: TextTokenizer, vocab_size: int) -> Iterator[str]:
    """Words that the captions of the text tokenizer never had, where it can tell; each once, in the prompt's order.

    If the captions gave fewer pieces than the vocabulary has room for, byte-pair encoding went on until each of their words
    was one piece, so a word of several pieces was in none. Of a full vocabulary nothing can be said; nor of long words, digits,
    and scripts that write no spaces. A word that happens to be a piece of a longer one passes.
    """
    if text.size >= vocab_size:
        return
    for word in dict.fromkeys(re.findall(r"[^\W\d_]+", prompt)):
        spaced = all(unicodedata.name(letter, "").startswith(_SPACED) for letter in word)
        if spaced and len(word) <= _LONGEST_WORD and min(len(text.encode(f" {word}")), len(text.encode(word))) > 1:
            yield word


def tell_remarks(prompts: Sequence[str], text: TextTokenizer, window: int, vocab_size: int) -> None:
    """Log them, the first lines of many."""
    lines = remarks(prompts, text, window, vocab_size)
    for line in lines[:_MOST_LINES]:
        log.warning("%s", line)
    if len(lines) > _MOST_LINES:
        log.warning("and %d more remarks on prompts", len(lines) - _MOST_LINES)
