"""Picture files, which are videos of one frame: their parts, without decoding.

Pixels decide whether a picture is usable. `without_metadata` leaves out EXIF, colour profiles and comments, which a
strict decoder may refuse although the pixels are whole.
"""

from __future__ import annotations

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_WEBP_METADATA = {b"EXIF", b"ICCP", b"XMP "}
_JPEG_SCAN = 0xDA
_JPEG_METADATA = {0xFE, *range(0xE1, 0xEE), 0xEF}  # comments and APP segments; APP0 and APP14 say how colours are coded


def is_animated_webp(head: bytes) -> bool:
    """Whether a file's first bytes are those of a WebP animation."""
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20 and bool(head[20] & 2)


def without_metadata(picture: bytes) -> bytes | None:
    """A JPEG, PNG or WebP without its metadata; None if it is another file or there is nothing to leave out."""
    if picture[:2] == b"\xff\xd8":
        bare = _jpeg(picture)
    elif picture[:8] == _PNG:
        bare = _png(picture)
    elif picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        bare = _webp(picture)
    else:
        return None
    return bare if bare != picture else None


def _jpeg(picture: bytes) -> bytes:
    kept, at = [picture[:2]], 2
    while at + 4 <= len(picture) and picture[at] == 0xFF and picture[at + 1] != _JPEG_SCAN:
        end = at + 2 + int.from_bytes(picture[at + 2 : at + 4], "big")
        if picture[at + 1] not in _JPEG_METADATA:
            kept.append(picture[at:end])
        at = end
    return b"".join([*kept, picture[at:]])


def _png(picture: bytes) -> bytes:
    kept, at = [picture[:8]], 8
    while at + 8 <= len(picture):
        end = at + 12 + int.from_bytes(picture[at : at + 4], "big")
        if picture[at + 4 : at + 8] in _PNG_PIXELS:
            kept.append(picture[at:end])
        at = end
    return b"".join(kept)


def _webp(picture: bytes) -> bytes:
    kept, at = [b"WEBP"], 12
    while at + 8 <= len(picture):
        size = int.from_bytes(picture[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        if picture[at : at + 4] not in _WEBP_METADATA:
            kept.append(picture[at:end])
        at = end
    body = b"".join(kept)
    return b"RIFF" + len(body).to_bytes(4, "little") + body
