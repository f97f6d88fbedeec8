"""Captions and metadata as other people write them: which fields and files hold a caption, and what is refused by name."""

from __future__ import annotations

import codecs
import json
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from hitvideo.data.names import printable
from hitvideo.errors import VideoError

CAPTION_FIELDS = ("caption", "text", "prompt")
LARGEST_METADATA = 16 << 20
DEEPEST_METADATA = 64
PLACEHOLDERS = ("", "nan", "null", "none", "<na>")  # an empty cell as spreadsheets, pandas and databases write it
TIMES = ("start", "end", "timestamp", "timestamps", "start_time", "end_time")
# The longer mark first: UTF-32's begins with UTF-16's.
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
         codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip
UNUSABLE = re.compile("[\0\ud800-\udfff]")  # NUL, and half of a surrogate pair, which no encoding can write


def encoding_of(start: bytes) -> str:
    """The encoding that a file's first bytes mark; UTF-8 without a mark."""
    return next((encoding for mark, encoding in MARKS.items() if start.startswith(mark)), "utf-8")


def caption_text(content: bytes, name: str) -> str:
    """The caption in a text file, without surrounding white space. Raises VideoError bad_caption."""
    if len(content) > LARGEST_METADATA:
        raise VideoError("bad_caption", f"{name}: a caption of {len(content)} bytes; the limit is {LARGEST_METADATA}")
    try:
        text = content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        raise VideoError("bad_caption", f"{name}: the caption is not UTF-8 ({error.reason} at byte {error.start})") from error
    if "\0" in text:
        raise VideoError("bad_caption", f"{name}: the caption holds NUL bytes; is it UTF-16 without a mark? Write it as UTF-8")
    if _mixes_scripts(text):
        raise VideoError("bad_caption", f"{name}: '{printable(text)}' is not UTF-8 text, perhaps GBK; write it as UTF-8")
    return text.strip()


def _mixes_scripts(text: str) -> bool:
    """Whether letters of several alphabets make one word, as short Chinese text in GBK does that happens to be valid UTF-8."""
    if text.isascii() or max(text) > "\u07ff":  # such text has only characters of two bytes
        return False
    for word in re.findall("[^\0-\x7f]+", text):
        letters = [unicodedata.name(sign, "").split(" ")[0] for sign in word if unicodedata.category(sign)[0] in "LM"]
        if len(set(letters) - {"COMBINING", "MODIFIER", "MICRO", ""}) > 1:
            return True
    return False


def metadata_of(content: bytes, name: str) -> dict[str, Any]:
    """The JSON object beside a video, checked. Raises VideoError bad_metadata, which names what is wrong."""
    if len(content) > LARGEST_METADATA:
        raise VideoError("bad_metadata", f"{name}: {len(content)} bytes of JSON; the limit is {LARGEST_METADATA}")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise VideoError("bad_metadata", f"{name}: the JSON cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise VideoError("bad_metadata", f"{name}: the JSON is not an object")
    return checked(found, name)


def checked(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    """The same metadata with NaN and infinities, which JSON does not have, as None.

    Raises VideoError bad_metadata if a text cannot be written, or values are nested too deep.
    """

    def check(value: Any, field: str, depth: int) -> Any:
        if depth > DEEPEST_METADATA:
            raise VideoError("bad_metadata", f"{name}: '{printable(field)}' is nested deeper than {DEEPEST_METADATA} levels")
        if isinstance(value, str):
            if found := UNUSABLE.search(value):
                kind = "a NUL" if found[0] == "\0" else f"half of a surrogate pair, {printable(found[0])}"
                raise VideoError("bad_metadata", f"{name}: '{printable(field)}' holds {kind}")
        elif isinstance(value, dict):
            return {check(key, key, depth): check(item, key, depth + 1) for key, item in value.items()}
        elif isinstance(value, list):
            return [check(item, field, depth + 1) for item in value]
        elif isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    found: dict[str, Any] = check(metadata, "", 0)
    return found


def with_captions(
    metadata: dict[str, Any], beside: bytes | None, name: str, fields: Sequence[str] = CAPTION_FIELDS
) -> dict[str, Any]:
    """The metadata with a `caption`, and `captions` as [text, weight] pairs if there is a list of them, else without.

    The first of these that is not blank: a list in `captions`; the `fields` in order, each a text or a list; a text in
    `captions`; `beside`, the content of the caption's own file. Raises VideoError no_caption, timed_captions, bad_caption.
    """
    known = {key: value for key, value in metadata.items() if key != "captions"}
    listed = isinstance(metadata.get("captions"), list)
    refused: VideoError | None = None
    for field in ("captions", *fields) if listed else (fields[0], "captions", *fields[1:]):
        try:
            pairs = _pairs(metadata.get(field), field, name)
        except _ForeignError as error:  # another project's field of the same name; the others may still hold a caption
            refused = refused or error.refusal
            continue
        if pairs:
            several = {"captions": [list(pair) for pair in pairs]} if isinstance(metadata[field], list) else {}
            return {**known, "caption": pairs[0][0], **several}
    if beside is not None and not is_blank(text := caption_text(beside, name)):
        return {**known, "caption": text}
    known_fields = ", ".join(map(repr, fields))
    raise refused or VideoError("no_caption", f"{name}: no caption in {known_fields} of its metadata, nor beside it")


def is_blank(text: str) -> bool:
    """Whether it says nothing: no visible character, or what an empty cell becomes on its way, such as "nan"."""
    return text.strip().lower() in PLACEHOLDERS or not any(sign.isprintable() and not sign.isspace() for sign in text)


class _ForeignError(Exception):
    """A value that means something else than a caption."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.refusal = VideoError(reason, message)


def _pairs(value: Any, field: str, name: str) -> list[tuple[str, float]]:
    """(text, weight) pairs; none if the value is empty."""
    if value is None:
        return []
    if isinstance(value, str):
        return [] if is_blank(value) else [(value, 1.0)]
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        if any(time in item for item in value for time in TIMES):
            raise _ForeignError("timed_captions", f"{name}: '{field}' has times; cut the video at them, one caption per clip")
    elif isinstance(value, list):
        try:
            pairs = [(item, 1.0) if isinstance(item, str) else (item[0], float(item[1])) for item in value if item is not None]
            if all(isinstance(text, str) and 0 < weight < math.inf for text, weight in pairs):
                return [(text, weight) for text, weight in pairs if not is_blank(text)]
        except (TypeError, ValueError, LookupError):
            pass
        raise VideoError("no_caption", f"{name}: '{field}' must hold texts, or [text, weight] with weights above zero")
    kind = "a mapping" if isinstance(value, dict) else "a list of mappings" if isinstance(value, list) else f"{value!r:.40}"
    raise _ForeignError("no_caption", f"{name}: '{field}' is {kind}; give a text, or a list of texts")
