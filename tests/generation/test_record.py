"""What a video keeps of its making comes back exactly, and a foreign or hostile record is refused before it is used."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hitvideo.errors import ConfigError, HiTVideoError
from hitvideo.generation.record import TAG, Fingerprints, Record, parse_record, read_record
from hitvideo.generation.sampling import Sampling
from hitvideo.video.encode import encode_mp4, write_mp4
from hitvideo.video.tags import read_tags

RNG = np.random.default_rng(0)
CODES = [RNG.integers(0, 1 << 18, (1, 8, 8)), RNG.integers(0, 2, (3, 1, 5)), RNG.integers(0, 1 << 9, (1, 1, 1))]
SAMPLING = Sampling(guidance=(5.0, 3.0), negative="dark", plan="jacobi")
RECORD = Record("a red ⚽, \"quoted\"\n", 2**63 - 1, SAMPLING, Fingerprints("w", "v"), CODES, (18, 1, 9))
FRAMES = np.full((4, 32, 32, 3), 90, np.uint8)


def equal(one: Record, other: Record) -> bool:
    same = all(np.array_equal(a, b) for a, b in zip(one.codes, other.codes, strict=True))
    facts = [(r.prompt, r.seed, r.sampling, r.made_by, list(r.num_bits), r.version) for r in (one, other)]
    return same and facts[0] == facts[1]


def test_an_mp4_and_a_file_of_codes_keep_it(tmp_path: Path) -> None:
    write_mp4(tmp_path / "x.mp4", FRAMES, 8, tags={TAG: RECORD.to_json()})
    RECORD.save(tmp_path / "x.codes")
    assert equal(read_record(tmp_path / "x.mp4"), RECORD)
    assert equal(read_record(tmp_path / "x.codes"), RECORD)
    content = (tmp_path / "x.mp4").read_bytes()
    assert content == encode_mp4(FRAMES, 8, tags={TAG: RECORD.to_json()}), "the same bytes again"
    assert content.index(b"moov") < content.index(b"mdat"), "the index is before the pictures"
    assert read_tags(tmp_path / "x.mp4").keys() >= {TAG}


def test_bits_are_packed_most_significant_first() -> None:
    record = Record("", 0, Sampling(), Fingerprints("", ""), [np.array([[[5, 1, 7]]])], [3])
    level = json.loads(record.to_json())["levels"][0]
    assert base64.b64decode(level["indices"]) == bytes([0b10100111, 0b10000000])
    paper = [np.zeros(grid, np.int64) for grid in ((1, 8, 8), (2, 8, 8), (4, 16, 16), (8, 16, 16))]
    text = Record("", 0, Sampling(), Fingerprints("", ""), paper, [18] * 4).to_json()
    assert sum(len(level["indices"]) for level in json.loads(text)["levels"]) == 9792  # 3,264 · 18 bits / 6, of whole triples


def changed(**new: Any) -> str:
    return json.dumps({**json.loads(RECORD.to_json()), **new})


def level(**new: Any) -> str:
    return changed(levels=[{**json.loads(RECORD.to_json())["levels"][1], **new}])


HOSTILE = {
    "no JSON": "{", "a list": "[]", "deep": "[" * 100_000, "another format": changed(format=99), "no format": "{}",
    "prompt": changed(prompt=3), "long": changed(prompt="x" * (1 << 21)), "seed": changed(seed=-1), "bool": changed(seed=True),
    "huge seed": changed(seed=2**63), "weights": changed(weights=None), "sampling": changed(sampling=[]),
    "nan": changed(sampling={"guidance": float("nan")}),
    "unknown": changed(sampling={"run": "rm"}),
    "no levels": changed(levels=[]), "many": changed(levels=[{}] * 1000), "not levels": changed(levels="ab"),
    "grid": level(grid=[3, 5]), "zero": level(grid=[0, 1, 5]), "negative": level(grid=[-3, -1, 5]),
    "float": level(grid=[3.0, 1, 5]),
    "huge grid": level(grid=[1 << 20, 1 << 20, 1 << 20]), "bits": level(num_bits=63), "no bits": level(num_bits=0),
    "base64": level(indices="!!"), "short": level(indices="AA=="), "long data": level(indices="AAAA"),
    "no text": level(indices=1),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^file\.mp4: damaged settings") as caught:
        parse_record(HOSTILE[name], "file.mp4")
    assert len(str(caught.value)) < 700


def test_files_of_others_are_named(tmp_path: Path) -> None:
    write_mp4(tmp_path / "foreign.mp4", FRAMES, 8)
    write_mp4(tmp_path / "hostile.mp4", FRAMES, 8, tags={TAG: "[" * 10_000})
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "binary.codes").write_bytes(b"\xff\xfe\x00")
    for name in ("foreign.mp4", "hostile.mp4", "text.mp4", "binary.codes", "absent.mp4", "absent.codes"):
        with pytest.raises(HiTVideoError, match=name):
            read_record(tmp_path / name)
