"""The `hitvideo` command: golden figures, exit codes, one line for what the user can mend."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from hitvideo.commands.cli import parser
from hitvideo.data.token_format import shard_paths
from hitvideo.data.token_shards import TokenDataset
from hitvideo.data.video_shards import list_shards, read, scan
from hitvideo.sequence.text import TextTokenizer
from hitvideo.settings.programs import PretrainRun
from hitvideo.video.encode import encode_mp4
from tests.commands.conftest import Call
from tests.conftest import ROOT
from tests.samples import make_token_shards

PAPER = str(ROOT / "yaml_configs/parts/hierarchy/paper_4level.yaml")
TINY = str(ROOT / "yaml_configs/pretrain/tiny.yaml")


def commands(p: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group of commands, as it is typed."""
    yield words
    for action in p._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from commands(sub, (*words, name))


def test_inspect_the_papers_hierarchy(call: Call) -> None:
    code, out, _ = call("inspect", PAPER, "--json")
    assert code == 0
    assert json.loads(out) == {
        "levels": [
            {"grid": [1, 8, 8], "tokens": 64, "num_bits": 18, "down": [64, 32, 32]},
            {"grid": [2, 8, 8], "tokens": 128, "num_bits": 18, "down": [32, 32, 32]},
            {"grid": [4, 16, 16], "tokens": 1024, "num_bits": 18, "down": [16, 16, 16]},
            {"grid": [8, 16, 16], "tokens": 2048, "num_bits": 18, "down": [8, 16, 16]},
        ],
        "tokens": 3264,
        "bpp": 0.014007568359375,
        "compression": 1713.4,
    }


def test_inspect_shards(call: Call, tmp_path: Path) -> None:
    manifest = make_token_shards(tmp_path / "tokens", shards=2, per_shard=3)
    code, out, _ = call("inspect", manifest, "--json")
    assert (code, json.loads(out)["samples_out"]) == (0, 6)
    code, out, _ = call("inspect", tmp_path / "tokens/000001.tar", "--json")
    assert code == 0
    figures = json.loads(out)
    assert (figures["kind"], figures["count"]) == ("token shard", 3)
    assert figures["samples"][1] == {
        "key": "1-0001", "grids": [[1, 2, 2], [1, 4, 4], [2, 4, 4], [2, 8, 8]], "caption": "a green thing, number 1",
    }  # fmt: skip
    assert call("data", "moving-shapes", tmp_path / "videos", "--num", "2", "--seed", "1")[0] == 0
    code, out, _ = call("inspect", tmp_path / "videos/000000.tar", "--json")
    assert (code, json.loads(out)["kind"], json.loads(out)["count"]) == (0, "video shard", 2)
    for file in (PAPER, manifest, tmp_path / "tokens/000001.tar", tmp_path / "videos/000000.tar"):
        assert call("inspect", file)[0] == 0  # for people


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_inspect_many_shards(call: Call, tmp_path: Path, form: tuple[str, ...]) -> None:
    """The same is printed by any number of processes; 1 if a file cannot be described, which does not hide the others."""
    make_token_shards(tmp_path, shards=3, per_shard=2)
    shards = sorted(tmp_path.glob("*.tar"))
    code, out, _ = call("inspect", *shards, *form)
    assert (code, call("inspect", *shards, *form, "--jobs", "3")[:2]) == (0, (0, out))
    shard_paths(tmp_path, shards[1].stem)[1].write_bytes(b"junk")
    code, out, err = call("inspect", *shards, *form)
    assert (code, call("inspect", *shards, *form, "--jobs", "3")) == (1, (1, out, err))
    assert all(key in out for key in ("0-0000", "2-0001"))
    if form:
        assert ["error" in json.loads(line) for line in out.splitlines()] == [False, True, False]
    assert call("inspect", *shards, "--decode", "0-0000")[0] == 2


@pytest.mark.parametrize("name", ["none.yaml", "odd.txt", "empty.yaml", "junk.tar", "junk.json"])
def test_inspect_what_cannot_be(call: Call, tmp_path: Path, name: str) -> None:
    if name != "none.yaml":
        (tmp_path / name).write_text("" if "empty" in name else "junk")
    code, out, err = call("inspect", tmp_path / name)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert name in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["config", "plan"])
def test_an_unknown_key_is_one_line_that_names_the_nearest(call: Call, command: str) -> None:
    code, out, err = call(command, TINY, "train.stesp=3")
    assert (code, out) == (2, "")
    assert err == f"error: {TINY}: unknown key 'train.stesp'; did you mean 'train.steps'?\n"


def test_config_prints_what_can_be_read_back(call: Call) -> None:
    code, out, _ = call("config", TINY, "train.lr=3e-4")
    assert code == 0
    assert PretrainRun(**yaml.safe_load(out)).train.lr == 3e-4  # what is derived stands in comments
    assert "#   tokens per clip: 180" in out  # 4 + 16 + 32 + 128
    assert "#   sequence length: 205" in out  # 24 of text, 180, EOV


def test_config_explains_every_key_and_finds_words(call: Call) -> None:
    code, out, _ = call("config", TINY, "train.steps=7", "--explain")
    assert code == 0
    assert "  steps: 7  # command line\n" in out
    code, out, _ = call("config", "--find", "most_rollbacks")
    assert code == 0
    assert out.count("faults.most_rollbacks  (default 3)") == 2, "both programs that train have it"
    code, _, error = call("config")
    assert code == 2
    assert "--find" in error


def test_plan(call: Call) -> None:
    code, out, _ = call("plan", TINY, "--json")
    assert (code, json.loads(out)["tokens_per_row"]) == (0, 205)
    code, out, _ = call("plan", TINY)
    assert code == 0
    assert out.splitlines()[-1] == "fits"
    assert call("plan", TINY, "cluster.memory_gib=0.001")[1].splitlines()[-1].startswith("does NOT fit")
    assert call("plan", ROOT / "yaml_configs/tokenize_shards/tiny.yaml")[0] == 2


def test_doctor(call: Call) -> None:
    code, out, _ = call("doctor", "--json")
    assert code == 0
    assert json.loads(out)["facts"]["collectives"] in ("gloo", "nccl")
    assert call("doctor")[0] == 0


@pytest.mark.parametrize("words", list(commands(parser())), ids=" ".join)
def test_help(call: Call, words: tuple[str, ...]) -> None:
    code, out, err = call(*words, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(" ".join(("usage: hitvideo", *words)))
    assert len(out.splitlines()) > 3


def test_the_commands_that_are_promised() -> None:
    promised = {
        ("generate",), ("reconstruct",), ("inspect",), ("plan",), ("doctor",), ("config",), ("report",), ("evaluate",),
        ("data", "pack"), ("data", "moving-shapes"), ("data", "text-tokenizer"), ("data", "verify"),
    }  # fmt: skip
    assert promised <= set(commands(parser()))


WRONG = [(), ("nonsense",), ("data",), ("inspect",), ("generate", "--guidance"), ("data", "pack", "x")]


def test_overrides_may_stand_behind_options(call: Call) -> None:
    tiny = str(ROOT / "yaml_configs/pretrain/tiny.yaml")
    code, out, _ = call("plan", tiny, "--json", "train.steps=5", "llm.layers=1")
    assert code == 0
    assert json.loads(out)["parameters"] < json.loads(call("plan", tiny, "--json")[1])["parameters"]
    code, _, err = call("plan", tiny, "train.steps=5", "--jsno")
    assert code == 2
    assert "unrecognized arguments: --jsno" in err
    assert call("doctor", "x=1")[0] == 2, "settings of no run"


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words(call: Call, words: tuple[str, ...]) -> None:
    code, _, err = call(*words)
    assert code == 2
    assert "usage: hitvideo" in err


def test_nothing_to_generate(call: Call) -> None:
    code, _, err = call("generate", "--run", "x")
    assert code == 2
    assert all(option in err for option in ("--prompt", "--refine", "--same"))


def test_data_pack(call: Call, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        (source / f"clip{number}.mp4").write_bytes(encode_mp4(np.full((4, 32, 32, 3), 60 * number, np.uint8), 8))
        if number < 2:
            (source / f"clip{number}.txt").write_text(f"caption {number}")
    code, out, err = call("data", "pack", source, tmp_path / "out")
    assert code == 0
    assert "2 videos in 1 video shards; 3 found = 2 packed + 1 without caption" in out
    assert "Traceback" not in err
    (shard,) = list_shards(str(tmp_path / "out"))
    assert [read(shard, member).caption for member in scan(shard).samples] == ["caption 0", "caption 1"]
    assert call("data", "pack", source, tmp_path / "out")[0] == 2  # not over what is there


def test_data_pack_refusals(call: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.tsv").write_text("file\twords\na.mp4\thello\n")
    for source, message in (("empty", "no videos found"), ("none", "neither a folder"), ("table.tsv", "no column 'caption'")):
        code, _, err = call("data", "pack", tmp_path / source, tmp_path / "out")
        assert code == 2
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_data_verify(call: Call, tmp_path: Path) -> None:
    manifest = make_token_shards(tmp_path, shards=2, per_shard=4)
    code, out, err = call("data", "verify", manifest)
    assert (code, err) == (0, "")
    assert "every receipt, checksum and sample is as it says" in out
    tar, index, _ = shard_paths(tmp_path, "000001")
    for path in (tar, index):
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        path.write_bytes(changed)
        code, _, err = call("data", "verify", manifest)
        assert code == 1
        assert path.name in err
        path.write_bytes(whole)
    assert call("data", "verify", manifest)[0] == 0
    tar.unlink()
    code, _, err = call("data", "verify", manifest)
    assert code == 1
    assert "000001.tar: missing" in err
    index.unlink()
    assert call("data", "verify", manifest)[0] == 1
    assert call("data", "verify", tmp_path / "none.json")[0] == 2


def test_data_verify_counts(call: Call, tmp_path: Path) -> None:
    manifest = make_token_shards(tmp_path, shards=1, per_shard=4)
    content = json.loads(manifest.read_text())
    content["shards"][0]["samples_in"] = 5
    manifest.write_text(json.dumps(content))
    code, _, err = call("data", "verify", manifest)
    assert code == 1
    assert "5 in ≠ 4 out + 0 rejected" in err


def test_data_text_tokenizer(call: Call, tmp_path: Path) -> None:
    manifest = make_token_shards(tmp_path, shards=1, per_shard=9)
    code, _, _ = call("data", "text-tokenizer", manifest, tmp_path / "x.model", "--vocab-size", "300")
    assert code == 0
    text = TextTokenizer.load(tmp_path / "x.model")
    assert text.decode(text.encode("a green thing, number 4")) == "a green thing, number 4"


def test_data_text_tokenizer_of_a_blend(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The larger of two datasets gives the larger part of the captions, and each gives some."""
    sizes = {"a": 9, "b": 3}
    manifests = [make_token_shards(tmp_path / name, shards=1, per_shard=size) for name, size in sizes.items()]
    seen: list[int] = []
    whole = TokenDataset.captions

    def captions(self: TokenDataset, most: int) -> Iterator[str]:
        seen.append(most)
        return whole(self, most)

    monkeypatch.setattr("hitvideo.sequence.text.MOST_CAPTIONS", 8)
    monkeypatch.setattr(TokenDataset, "captions", captions)
    code, out, _ = call("data", "text-tokenizer", *manifests, tmp_path / "x.model", "--vocab-size", "300")
    assert code == 0
    assert seen == [6, 2]
    assert "12 samples" in out


@pytest.mark.parametrize("num", ["0", "-1"])
def test_data_moving_shapes_refusals(call: Call, tmp_path: Path, num: str) -> None:
    code, _, err = call("data", "moving-shapes", tmp_path / "out", "--num", num)
    assert (code, err.startswith("error: ")) == (2, True)
