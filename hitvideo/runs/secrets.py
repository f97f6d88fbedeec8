"""Takes secrets out of what is written: passwords and tokens in URIs never reach a file, the log or MLflow."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from hitvideo.config import Section

MASK = "***"
# scheme://user:password@host, also with a password that holds '/', '?' or '#', as database URIs may. A number behind
# the colon and before a '/' is a port.
_USER = re.compile(r"(?<=://)(?:[^\s/?#]*|[^:/\s@]*:(?!\d+[/?#])[^@\s]*)@")
_QUERY = re.compile(r"""(://[^\s?#'"]*)[?#][^\s'"]*=[^\s'"]*""")


def masked(text: str) -> str:
    """A text in which every URI has *** for its user and password, and for a query such as ?token=…, whatever its names."""
    return _QUERY.sub(rf"\1?{MASK}", _USER.sub(f"{MASK}@", text)) if "://" in text else text


def masked_settings(settings: Section) -> dict[str, Any]:
    """The settings as plain data with every text masked: what is written of a run's settings."""
    content: dict[str, Any] = _masked_leaves(settings.model_dump(mode="json"))
    return content


def without_secrets_of(uri: str, text: object) -> str:
    """`text`, such as an error's, masked, and without the password and the query's values of `uri`, if it quotes them alone."""
    users = [match.group().rstrip("@").partition(":") for match in _USER.finditer(uri)]
    hidden = [password or user for user, _, password in users] + re.findall(r"(?<==)[^&=#;]+", uri)
    found = masked(str(text))
    for word in sorted({*hidden, *map(unquote, hidden)} - {""}, key=len, reverse=True):
        found = found.replace(word, MASK)
    return found


class MaskedFormatter(logging.Formatter):
    """A log formatter that masks each line, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


def _masked_leaves(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _masked_leaves(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_masked_leaves(value) for value in node]
    return masked(node) if isinstance(node, str) else node
