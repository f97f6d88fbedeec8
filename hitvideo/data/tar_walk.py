"""Walk over a tar's headers that reads hardly more than the headers, and notices every cut.

Python's tarfile takes a cut between members, or a hole of zeros, for the end of the tar; a complete tar ends in a few zeros.
It also reads extended headers of any size into memory; here a header above LARGEST_HEADER is passed over.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from hitvideo.data.remote import Ranges, Span
from hitvideo.errors import ShardError

BLOCK = 512
LARGEST_HEADER = 1 << 20
LONGEST_END = 2 * tarfile.RECORDSIZE  # tar pads the file to whole records of 10,240 bytes
MOST_AHEAD = 64 << 10
# Of an old GNU sparse file: the byte that says whether a block of its map follows, in the header and in such a block.
SPARSE_MORE, SPARSE_MORE_IN_MAP = 482, 504
PASSED_OVER = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK, b"V")  # global headers, targets of links, volume labels
COMPRESSIONS = {b"\x1f\x8b": ("gzip", "gunzip"), b"BZh": ("bzip2", "bunzip2"), b"\xfd7zXZ\0": ("xz", "unxz"),
                b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"), b"\x04\x22\x4d\x18": ("lz4", "unlz4")}  # fmt: skip


class Member(NamedTuple):
    """A member whose content is complete. Bytes of the name that are not UTF-8 are lone surrogates (surrogateescape)."""

    name: str
    span: Span
    flaw: str
    """Why it cannot belong to a sample: not_a_file, bad_name; empty if it can."""


class Walk:
    """Iterates over a tar's members, without folders; afterwards `cut` describes a truncation, or is empty."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self.cut = ""
        self._ahead = 0
        self._buffer = (0, b"")

    def __iter__(self) -> Iterator[Member]:
        """Raises ShardError if the file is not a tar."""
        at = 0
        fields: dict[str, str] = {}  # from the extended headers before a member
        unread = False  # one of them could not be used
        while True:
            header = self._read(at, BLOCK)
            if at and len(header) < BLOCK:
                self.cut = f"after {at} bytes the end mark is missing"
                return
            if header and not any(header):
                self.cut = self._after_end(at)
                return
            try:
                info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
                size = int(fields.get("size", info.size)) if info.isreg() else info.size
                if min(size, info.size) < 0:
                    raise ValueError(f"a size of {size} bytes")
            except (tarfile.HeaderError, ValueError) as error:
                if not at:
                    raise ShardError(self._not_a_tar(header, error)) from error
                self.cut = f"after {at} bytes the header cannot be read: {error}"
                return
            start = self._content_start(info, at)
            size = size if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES or _extends(info) else 0
            if start + size > self.ranges.size:
                self.cut = f"the member at byte {at} needs {start + size} bytes, the file has {self.ranges.size}"
                return
            at = start + -(-size // BLOCK) * BLOCK
            self._ahead = min(MOST_AHEAD, size // 32)  # a next header after a large member: take what is around it, too
            if _extends(info):
                unread |= not self._extend(fields, info, Span(start, size))
                continue
            if not info.isdir():
                sparse = info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in fields)
                flaw = "bad_name" if unread else "" if info.isreg() and not sparse else "not_a_file"
                yield Member(fields.get("GNU.sparse.name", fields.get("path", info.name)), Span(start, size), flaw)
            fields, unread = {}, False

    def _extend(self, fields: dict[str, str], info: tarfile.TarInfo, span: Span) -> bool:
        """Add what an extended header says about the next member; False if it is too large or damaged."""
        if info.type in PASSED_OVER:
            return True
        if span.size > LARGEST_HEADER:
            return False
        content = self._read(*span)
        if info.type == tarfile.GNUTYPE_LONGNAME:
            fields["path"] = content.partition(b"\0")[0].decode("utf-8", "surrogateescape")
            return True
        try:
            fields |= _records(content)
        except ValueError:
            return False
        return True

    def _read(self, at: int, size: int) -> bytes:
        start, content = self._buffer
        if not (start <= at and at + size <= start + len(content)):
            end = min(at + max(size, self._ahead), self.ranges.size)
            self._buffer = start, content = at, self.ranges.read(at, end) if end > at else b""
        return content[at - start : at - start + size]

    def _content_start(self, info: tarfile.TarInfo, at: int) -> int:
        start, more = at + BLOCK, SPARSE_MORE
        if info.type == tarfile.GNUTYPE_SPARSE:
            while self._read(start - BLOCK, BLOCK)[more : more + 1] > b"\0":
                start, more = start + BLOCK, SPARSE_MORE_IN_MAP
        return start

    def _after_end(self, at: int) -> str:
        """What is wrong with everything from the first block of zeros on; empty if it is the end of a tar."""
        left = self.ranges.size - at
        if any(self.ranges.read(at, at + min(left, LONGEST_END))):
            return f"after {at} bytes there are zeros, and data follow them: a hole, or a second tar that was appended"
        if left > LONGEST_END:
            return f"after {at} bytes there are {left} more, and they begin with zeros: a hole, or a tar that was appended"
        return "" if at else "it holds only zeros"

    def _not_a_tar(self, header: bytes, error: Exception) -> str:
        for magic, (compression, fix) in COMPRESSIONS.items():
            if header.startswith(magic):
                how = f"run `{fix}` on it: samples are read at their offsets, which needs a plain tar"
                return f"{self.ranges.shard} is not a tar: it is compressed with {compression}; {how}"
        return f"{self.ranges.shard} is not a tar: {error}"


def _extends(info: tarfile.TarInfo) -> bool:
    """Whether it is not a member itself, but describes the next one."""
    return info.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, *PASSED_OVER)


def _records(content: bytes) -> dict[str, str]:
    """The fields of a PAX header, records of `LENGTH KEY=VALUE\\n`. Raises ValueError if it is damaged."""
    found: dict[str, str] = {}
    at = 0
    while at < len(content) and content[at]:
        digits = content[at : at + 10].partition(b" ")[0]
        end = at + int(digits)
        if end > len(content) or end <= at + len(digits) + 1 or content[end - 1 : end] != b"\n":
            raise ValueError(f"a record of {end - at} bytes")
        key, _, value = content[at + len(digits) + 1 : end - 1].decode("utf-8", "surrogateescape").partition("=")
        found[key] = value
        at = end
    return found
