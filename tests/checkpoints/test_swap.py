"""Wherever a save is killed, the next start finds a complete checkpoint: the old one or the new one, never neither."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hitvideo.checkpoints import swap
from hitvideo.checkpoints.listing import complete, newest
from hitvideo.checkpoints.reader import Reader
from tests.checkpoints.written import write_checkpoint

NAME = "step-00000010"
OLD, NEW = torch.zeros(3), torch.ones(3)


class Killed(BaseException):
    pass


def killed_before(number: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the swap die right before its `number`-th change of the directory; returns the changes made, as they are made."""
    made: list[str] = []

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Path, *arguments: Any, **options: Any) -> None:
            if path.exists():
                if len(made) == number:
                    raise Killed
                made.append(f"{change.__name__} {path.suffix}")
            change(path, *arguments, **options)

        return wrapped

    monkeypatch.setattr(os, "rename", counted(os.rename))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    return made


@pytest.mark.parametrize("number", range(4))
def test_a_kill_between_any_two_changes_leaves_one(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only checkpoint of a run is replaced."""
    write_checkpoint(tmp_path / NAME, {"norm": OLD}, 1, 1)
    write_checkpoint(tmp_path / f"{NAME}.partial-1", {"norm": NEW}, 1, 1)
    with monkeypatch.context() as patched:
        made = killed_before(number, patched)
        if number < 3:
            with pytest.raises(Killed):
                swap.swap_in(tmp_path / f"{NAME}.partial-1", tmp_path / NAME)
        else:
            swap.swap_in(tmp_path / f"{NAME}.partial-1", tmp_path / NAME)
    assert made == ["rename ", "rename .partial-1", "rmtree .replaced"][:number]
    swap.clear_leftovers(tmp_path)
    found = newest(tmp_path)
    assert found == tmp_path / NAME
    assert Reader(found).full("norm").equal(OLD if number < 2 else NEW)
    assert list(tmp_path.iterdir()) == [found], "nothing else is left"


def test_what_is_set_aside_or_unfinished_does_not_count(tmp_path: Path) -> None:
    for suffix in ("", ".replaced", ".partial-1"):
        write_checkpoint(tmp_path / f"{NAME}{suffix}", {"norm": OLD}, 1, 1)
    assert complete(tmp_path) == [tmp_path / NAME]
