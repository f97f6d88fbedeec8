"""Names: split as webdataset splits them, printed without harm; keys of packed files."""

from __future__ import annotations

import pytest
from webdataset.tariterators import base_plus_ext

from hitvideo.data.names import printable, split_name
from hitvideo.data.packing_keys import LONGEST, keys_of

NAMES = ["a.mp4", "東京.json", "v1.0/a.mp4", "a.b.mp4", "dir.x/a.tar.gz", "caf\udce9.mp4", "noext", ".hidden.mp4", "a."]


@pytest.mark.parametrize("name", NAMES)
def test_split_as_webdataset_does(name: str) -> None:
    key, extension = base_plus_ext(name)
    assert split_name(name) == (None if key is None else (key, extension.lower()))


def test_split_is_ours_where_webdatasets_is_of_no_use() -> None:
    assert split_name("./a.MP4") == split_name("././a.mp4") == ("a", "mp4")
    assert split_name("./v1.0/a.mp4") == ("v1.0/a", "mp4")
    assert split_name("a\nb.mp4") == ("a\nb", "mp4")
    assert split_name("./.a.mp4") is split_name("d/.a.mp4") is None


@pytest.mark.parametrize("name", ["caf\udce9", "\ud83d", "a\0\n\x1b[31m", "‮gpj", "x" * 10_000, "\udce9" * 500])
def test_printable_is_safe_everywhere(name: str) -> None:
    text = printable(name)
    assert text.encode().decode().isprintable()
    assert len(text) <= 200


def test_printable_keeps_what_is_printable() -> None:
    assert printable("東京 café.mp4") == "東京 café.mp4"
    assert printable("caf\udce9") == r"caf\udce9"


def test_packing_keys_are_readable_and_distinct() -> None:
    sources = ["東京.mp4", "大阪.mp4", "cam1/0001.mp4", "cam2/0001.mp4", "हिन्दी.mp4", "odd name.v2.webm"]
    assert keys_of(sources) == ["東京", "大阪", "cam1/0001", "cam2/0001", "हिन्दी", "odd_name_v2"]
    alike = ["a b.mp4", "a_b.mp4", "A_B.mp4", "a.b.mp4", "a_b.webm", "🐶.mp4", "🐱.mp4", "caf\u00e9.mp4", "cafe\u0301.mp4",
             "x" * 300 + "1.mp4", "x" * 300 + "2.mp4", "caf\udce9.mp4", "caf\udce8.mp4", "日" * 100 + ".mp4"]  # fmt: skip
    keys = keys_of(sources + alike)
    assert keys[: len(sources)] == keys_of(sources)
    assert keys_of(["🐶.mp4"]) == keys_of(["🐶.mp4", "🐱.mp4"])[:1]
    assert dict(zip(reversed(sources + alike), keys_of([*reversed(sources + alike)]), strict=True)) == dict(
        zip(sources + alike, keys, strict=True)
    )
    assert len({key.casefold() for key in keys}) == len(keys)
    for key in keys:
        assert len(key.encode()) <= LONGEST
        assert split_name(f"{key}.mp4") == (key, "mp4")
