"""Files are replaced at once."""

from __future__ import annotations

import threading
from pathlib import Path

from hitvideo.files import replace_file


def test_a_file_is_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    done = threading.Event()
    seen: set[str] = set()

    def look() -> None:
        while not done.is_set():
            seen.add(path.read_text())

    thread = threading.Thread(target=look)
    thread.start()
    for number in range(50):
        replace_file(path, str(number % 10) * 100_000)
    done.set()
    thread.join()
    assert {len(text) for text in seen} <= {3, 100_000}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]
