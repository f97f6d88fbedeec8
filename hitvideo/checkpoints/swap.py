"""A finished checkpoint gets its name, also where an older one has it, and a kill on the way loses neither.

    step-00000100.partial-…     the new one, complete except for its name
    step-00000100               an old one of the same step: damaged, or of data that the run went back from

Three steps: the old one is renamed to step-00000100.replaced, the new one gets the name, the old one is removed. After a kill
between the first two, the next start gives the old one its name back.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hitvideo.files import sync

_ASIDE = ".replaced"


def swap_in(new: Path, final: Path) -> None:
    """Give the directory `new` the name `final`, and then remove the directory that had it."""
    aside = final.with_suffix(_ASIDE)
    if final.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(final, aside)
    os.rename(new, final)
    sync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def clear_leftovers(directory: Path) -> None:
    """Remove what killed saves have left, and finish or take back a swap. Call while nobody saves into `directory`."""
    for left in directory.glob("step-*.partial*"):
        shutil.rmtree(left, ignore_errors=True)
    for aside in directory.glob(f"step-*{_ASIDE}"):
        if aside.with_suffix("").exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(aside, aside.with_suffix(""))
