"""Keys of packed videos: readable, in any script, and different for different files."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

LONGEST = 64  # bytes of UTF-8: a token shard's key may be a few bytes longer than its video's
HASH = 12  # hex digits


def keys_of(sources: Sequence[str]) -> list[str]:
    """A key for each relative path: the path without extension, with `_` for each character that is not a letter or digit.

    If more than spaces and dots is lost, if the key is too long, or if another path has the same key on a disk that ignores
    case, the key ends in a hash of the path.
    """
    plain = [_plain(source) for source in sources]
    shared = Counter(key.casefold() for key, _ in plain)
    keys = []
    taken: set[str] = set()
    for source, (key, lossy) in zip(sources, plain, strict=True):
        if lossy or len(key.encode()) > LONGEST or shared[key.casefold()] > 1:
            digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:HASH]
            key = f"{key.encode()[: LONGEST - HASH - 1].decode(errors='ignore')}-{digest}"
        while key.casefold() in taken:
            key += "_"
        taken.add(key.casefold())
        keys.append(key)
    return keys


def _plain(source: str) -> tuple[str, bool]:
    """The path as a key, and whether letters or signs were lost."""
    stem = unicodedata.normalize("NFC", str(PurePosixPath(source).with_suffix("")))
    signs = ["_" if not (sign in "/-_" or sign.isalnum() or unicodedata.category(sign)[0] == "M") else sign for sign in stem]
    return "".join(signs), any(sign != new and sign not in " ." for sign, new in zip(stem, signs, strict=True))
