"""The patterns that name video shards, and those that are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from hitvideo.data.shard_lists import list_shards
from hitvideo.errors import ConfigError
from tests.data.tars import pair, tar_of


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "set #2 {x} [y]"
    folder.mkdir()
    for number in range(12):
        tar_of(folder / f"{number:06d}.tar", *pair("a"))
    (folder / "README.md").write_text("read me")
    (folder / "._000000.tar").write_bytes(b"of a Mac")
    return folder


def test_patterns(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shards.parent / "plain").symlink_to(shards)
    monkeypatch.chdir(shards.parent)
    names = [f"{number:06d}.tar" for number in range(12)]

    def named(pattern: str) -> list[str]:
        return [shard.name for shard in list_shards(pattern)]

    for pattern in (str(shards), "plain", "plain/*", "plain/*.tar", "**/*.tar", "plain/{000000..000011}.tar"):
        assert named(pattern if pattern != "**/*.tar" else "set*/**/*.tar") == names, pattern
    assert named(f"{shards}/000003.tar") == ["000003.tar"]
    assert named("plain/{000003,000005}.tar") == ["000003.tar", "000005.tar"]
    assert named("plain/000002.tar::plain/00001*.tar") == ["000002.tar", "000010.tar", "000011.tar"]
    assert named(f"file://{shards.parent}/plain/{{000000..000002}}.tar") == names[:3]


@pytest.mark.parametrize("pattern", [
    "{000010..000013}.tar", "{1..99999999999}.tar", "{0,1", "absent", "absent/*.tar", "*.md", "README.md", "dir.tar",
    "link.tar", "*k.tar", "*r.tar", "deeper", "packed", "", "000001.tar::00000*.tar", "caf\udce9.tar",
])  # fmt: skip
def test_refused_patterns_are_named(shards: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    (shards.parent / "plain").symlink_to(shards)
    monkeypatch.chdir(shards.parent / "plain")
    (shards / "dir.tar").mkdir()
    (shards / "link.tar").symlink_to("nowhere")
    (shards / "deeper" / "below").mkdir(parents=True)
    tar_of(shards / "deeper" / "below" / "x.tar", *pair("a"))
    (shards / "packed").mkdir()
    (shards / "caf\udce9.tar").write_bytes(b"x")
    (shards / "packed" / "x.tar.gz").write_bytes(b"x")
    with pytest.raises(ConfigError) as caught:
        list_shards(pattern)
    assert len(str(caught.value)) < 1000
    words = {"{000010..000013}.tar": "000012.tar", "*k.tar": "link.tar is a broken", "*r.tar": "dir.tar is a folder",
             "deeper": "/**/*.tar", "packed": "x.tar.gz is compressed", "": "give a folder",
             "000001.tar::00000*.tar": "000001.tar is named twice", "caf\udce9.tar": r"caf\udce9.tar"}  # fmt: skip
    assert words.get(pattern, pattern[:10]) in str(caught.value)
