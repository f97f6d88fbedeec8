"""Tables of captioned videos, as spreadsheets, pandas and other projects write them."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from hitvideo.data.pack import PackSummary, pack
from hitvideo.data.sources import Choice
from hitvideo.data.video_shards import VideoSample, read, scan
from hitvideo.errors import ConfigError
from tests.data.tars import MP4

TSV = "file\tcaption\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4", "c.webm", "dir/d.mp4"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(MP4)
    return tmp_path / "in"


def packed(folder: Path, name: str, content: str | bytes, **choice: Any) -> tuple[PackSummary, list[VideoSample]]:
    table = folder / name
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    out = folder.parent / f"out-{len(list(folder.parent.iterdir()))}"
    summary = pack(table, out, 10, choice=Choice(**choice))
    assert summary.found == summary.packed + sum(map(len, summary.left_out.values()))
    return summary, [read(shard, member) for shard in summary.shards for member in scan(shard).samples]


def captions(folder: Path, name: str, content: str | bytes, **choice: Any) -> dict[str, str]:
    summary, samples = packed(folder, name, content, **choice)
    assert summary.left_out == {}
    return {sample.metadata["source"]: sample.caption for sample in samples}


def test_a_tsv(root: Path) -> None:
    summary, samples = packed(root, "l.tsv", 'file\tlicence\tcaption\na.mp4\tCC0\tsaid "so"\nb.mp4\tMIT\t\n')
    assert (summary.found, summary.packed, len(summary.no_caption)) == (2, 1, 1)
    assert samples[0].caption == 'said "so"'
    assert samples[0].metadata["licence"] == "CC0"
    assert "file" not in samples[0].metadata


def test_every_form_of_the_same_table(root: Path) -> None:
    import csv
    import io

    import pandas
    import pyarrow
    from pyarrow import parquet

    known = {"a.mp4": 'A man, "running"', "b.mp4": "two\nlines\tand; a | tab", "dir/d.mp4": "東京 café"}
    known["c.webm"] = '"so" he said'
    rows = [{"file": file, "caption": caption} for file, caption in known.items()]
    for name, delimiter in (("l.csv", ","), ("l.tsv", "\t"), ("semicolon.csv", ";"), ("bar.txt", "|")):
        text = io.StringIO()
        writer = csv.DictWriter(text, ["file", "caption"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
            assert captions(root, name, text.getvalue().encode(encoding)) == known, (name, encoding)
        assert captions(root, name, text.getvalue().replace("\r\n", "\n")) == known
    frame = pandas.DataFrame(rows)
    assert captions(root, "p.csv", frame.to_csv()) == known  # with its column of row numbers, which has no name
    assert captions(root, "p.tsv", frame.to_csv(sep="\t", index=False)) == known
    assert captions(root, "l.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n") == known
    assert captions(root, "l.json", "\ufeff" + json.dumps(rows)) == known
    table = pyarrow.table({**frame.to_dict("list"), "mp4": [b"bytes"] * 4, "day": [datetime.date(2026, 1, 1)] * 4})
    parquet.write_table(table, root / "x.parquet")
    assert captions(root, "l.parquet", (root / "x.parquet").read_bytes()) == known


@pytest.mark.parametrize("header", [
    "file,caption", "file_name,text", "path,text", "video,caption", "video_path,prompt", "media_path,caption", "File, CAPTION ",
])  # fmt: skip
def test_names_of_columns(root: Path, header: str) -> None:
    _, (sample,) = packed(root, "l.csv", f"score,{header}\n4.5,a.mp4,words\n")
    assert (sample.caption, sample.metadata["score"], sample.metadata["source"]) == ("words", "4.5", "a.mp4")
    assert set(sample.metadata) == {"score", "caption", "source", "header"}


def test_columns_that_are_asked_for(root: Path) -> None:
    webvid = "videoid,page_dir,name,duration\nd,dir,A dog,PT3S\n"
    found = captions(root, "l.csv", webvid, file_template="{page_dir}/{videoid}.mp4", caption_column="name")
    assert found == {"dir/d.mp4": "A dog"}
    two = "file,path,caption,text\na.mp4,b.mp4,of caption,of text\n"
    assert captions(root, "l.csv", two, file_column="path", caption_column="text") == {"b.mp4": "of text"}
    for choice, words in (
        ({}, "'file' and 'path'"), ({"file_column": "file"}, "'caption' and 'text'"), ({"file_column": "nil"}, "'nil'"),
        ({"file_template": "{nil}.mp4", "caption_column": "text"}, "nil"), ({"smallest": (("nil", 1.0),)}, "'file' and 'path'"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            packed(root, "l.csv", two, **choice)


def test_a_column_of_captions_beside_the_caption(root: Path) -> None:
    _, (sample,) = packed(root, "l.tsv", "file\tcaption\tcaptions\na.mp4\tA red car\t20 words here\n")
    assert (sample.caption, "captions" in sample.metadata) == ("A red car", False)
    _, (sample,) = packed(root, "l.jsonl", '{"file": "a.mp4", "captions": ["x", ["y", 2]]}\n')
    assert sample.metadata["captions"] == [["x", 1.0], ["y", 2.0]]


def test_filters(root: Path) -> None:
    rows = [("a.mp4", 5.5, "desirable"), ("b.mp4", 4, "desirable"), ("c.webm", 9, "undesirable")]
    rows += [("dir/d.mp4", "nan", "desirable")]
    table = "file,caption,aesthetic score,label\n" + "".join(f"{file},x,{score},{label}\n" for file, score, label in rows)
    for choice, kept in (
        ({"smallest": (("aesthetic score", 5.0),)}, {"a.mp4", "c.webm"}),
        ({"largest": (("aesthetic score", 5.5),)}, {"a.mp4", "b.mp4"}),
        ({"equal": (("file", "b.mp4"),)}, {"b.mp4"}),
        ({"smallest": (("aesthetic score", 4.0),), "equal": (("label", "desirable"),)}, {"a.mp4", "b.mp4"}),
    ):  # fmt: skip
        summary, samples = packed(root, "l.csv", table, **choice)
        assert {sample.metadata["source"] for sample in samples} == kept
        assert len(summary.left_out["filtered"]) == 4 - len(kept)
    with pytest.raises(ConfigError, match="score"):
        packed(root, "l.csv", table, smallest=(("score", 1.0),))


def test_rows_that_cannot_be_used_are_counted(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(MP4)
    (root / "link.mp4").symlink_to(tmp_path / "out.mp4")
    (root / "same.mp4").symlink_to("a.mp4")
    rows = ["a.mp4", "./a.mp4", "same.mp4", "../out.mp4", "/etc/hostname", "link.mp4", "absent.mp4", "", "x" * 5000, "dir",
            "l.tsv", str(root / "b.mp4"), "dir/../c.webm", "https://example.org/x.mp4"]  # fmt: skip
    summary, samples = packed(root, "l.tsv", TSV + "".join(f"{row}\tx\n" for row in rows) + "dir/d.mp4\n")
    assert [sample.metadata["source"] for sample in samples] == ["a.mp4", "b.mp4", "c.webm"]
    counts = {reason: len(places) for reason, places in summary.left_out.items()}
    assert counts == {"duplicate": 2, "outside": 3, "missing": 5, "other_kind": 1, "no_caption": 1}
    assert all("l.tsv line " in place for places in summary.left_out.values() for place in places)


def test_paths_under_another_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    for name in ("a.mp4", str(root / "a.mp4")):
        assert captions(tmp_path / "lists", "l.tsv", f"{TSV}{name}\tx\n", root=root) == {"a.mp4": "x"}


def test_texts_that_cannot_be_written_are_counted(root: Path) -> None:
    lines = ['{"file": "a.mp4", "caption": "cut \\ud83d"}', '{"file": "b.mp4", "caption": "x", "t": "\\u0000"}',
             '{"file": "c.webm", "caption": NaN}', '{"file": "dir/d.mp4", "caption": "x", "score": NaN}']  # fmt: skip
    summary, (sample,) = packed(root, "l.jsonl", "\n".join(lines))
    assert {reason: len(places) for reason, places in summary.left_out.items()} == {"bad_metadata": 2, "no_caption": 1}
    assert sample.metadata["score"] is None


def test_huge_fields(root: Path) -> None:
    for name, delimiter in (("l.tsv", "\t"), ("l.csv", ",")):
        assert captions(root, name, f"file{delimiter}caption\na.mp4{delimiter}{'x' * 200_000}\n") == {"a.mp4": "x" * 200_000}


@pytest.mark.parametrize(("name", "content", "words"), [
    ("l.tsv", "file\tname\na.mp4\tx\n", "no column 'caption'"), ("l.tsv", "name\tcaption\na.mp4\tx\n", "no column 'file'"),
    ("l.tsv", TSV, "no videos found"), ("l.tsv", "", "no videos found"), ("l.jsonl", "\n", "no videos found"),
    ("l.tsv", TSV + "../out.mp4\tx\n", "line 2: '../out.mp4'"), ("l.tsv", TSV + "absent.mp4\tx\n", "line 2: 'absent.mp4'"),
    ("l.tsv", TSV + "a.mp4\tx\ta tab\n", "line 2: more fields than the 2 columns"),
    ("l.tsv", TSV + "a.mp4\t\n", "none of 1 videos"),
    ("l.tsv", "file\tfile\tcaption\na\tb\tc\n", "'file'"), ("l.tsv", TSV + 'a.mp4\t"open\nb.mp4\tx\n', "line 2"),
    ("l.tsv", TSV + 'a.mp4\t"so" he said\n', "line 2"), ("l.tsv", TSV + "a\0.mp4\tx\n", "line 2"),
    ("l.tsv", (TSV + "b.mp4\tx\na.mp4\tcafé\n").encode("latin-1"), "line 3: not UTF-8"),
    ("l.tsv", (TSV + "a.mp4\tx\n").encode("utf-16-le"), "line 1: holds NUL"), ("l.tsv", b"\xff\xfea", "UTF-16"),
    ("l.csv", "file,caption\ra.mp4,x\r", "line 1"), ("l.jsonl", '{"file": "a.mp4"', "line 1"), ("l.jsonl", "[1]\n", "line 1"),
    ("l.json", "{}", "list"), ("l.json", "[1]", "list"), ("l.json", "[" * 100_000, "not JSON"),
    ("l.json", b"\xff\xfe\xff", "l.json"),
    ("l.parquet", b"PAR1 not", "l.parquet"), ("l.xlsx", b"PK", "l.xlsx"),
])  # fmt: skip
def test_refused_tables_name_the_file_and_the_line(root: Path, name: str, content: str | bytes, words: str) -> None:
    (root.parent / "out.mp4").write_bytes(MP4)
    with pytest.raises(ConfigError) as caught:
        packed(root, name, content)
    assert name in str(caught.value)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert not list(root.parent.glob("out-*"))
