"""Texts of settings in which `~`, `$NAME` and `${NAME}` are filled in: paths, names, URLs."""

from __future__ import annotations

import os
import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from hitvideo.errors import ConfigError, short
from hitvideo.settings.named_files import refuse_url


def expanded(text: str) -> str:
    """A text with `~`, `$NAME` and `${NAME}` filled in. Raises ConfigError if that fails."""

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if not os.environ.get(name):
            raise ConfigError(f"${name} is not set in the environment; set it, or write its value")
        return os.environ[name]

    filled = re.sub(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", value, text)
    if found := re.search(r"\$[({]", filled):
        raise ConfigError(f"'{found[0]}' starts nothing that is filled in here; write $NAME, ${{NAME}} or the value itself")
    filled = os.path.expanduser(filled)
    if filled.startswith("~"):
        raise ConfigError(f"{short(filled.partition('/')[0])} is not a user with a home; write ./~ for a file of that name")
    return filled


def _local(text: str) -> str:
    refuse_url(text)
    return expanded(text)


Expanded: TypeAlias = Annotated[str, AfterValidator(expanded)]
OutputPath: TypeAlias = Annotated[str, AfterValidator(_local)]
