"""Names of samples: the split of a tar member's name into key and extension, and any name as text that is safe to print."""

from __future__ import annotations

import re

LONGEST_PRINTED = 200  # characters
# At the first dot of the last path component, as webdataset splits. DOTALL: a name may hold a line break.
_NAME = re.compile(r"((?:.*/|)[^./][^./]*)[.]([^/]*)", re.DOTALL)
_HERE = re.compile(r"(?:\./+)+")  # `tar cf x.tar .` begins every name so


def split_name(name: str) -> tuple[str, str] | None:
    """Key and lower-case extension of a tar member; a leading `./` is not part of the key. None if it has no stem or no dot."""
    found = _NAME.fullmatch(_HERE.sub("", name, count=1) if name.startswith("./") else name)
    return (found[1], found[2].lower()) if found else None


def printable(name: str) -> str:
    """The name as at most 200 printable characters that any encoding of Unicode takes; all others are written as escapes."""
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in name[: LONGEST_PRINTED + 1])
    text = "".join(escaped)
    return text if len(text) <= LONGEST_PRINTED else text[: LONGEST_PRINTED - 1] + "…"
