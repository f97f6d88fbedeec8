"""The config mechanism: base files, overrides, and errors that name file, key, value and fix."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from hitvideo import config
from hitvideo.config import Section
from hitvideo.errors import ConfigError
from hitvideo.settings import programs
from tests.conftest import ROOT

RUNS = [
    path
    for program in ("pretrain_tokenizer", "tokenize_shards", "pretrain")
    for path in sorted((ROOT / "yaml_configs" / program).glob("*.yaml"))
]
TINY = ROOT / "yaml_configs/pretrain/tiny.yaml"


class Inner(Section):
    rate: float = 1.0
    sizes: tuple[int, ...] = ()


class Outer(Section):
    name: str = "x"
    inner: Inner = Inner()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ------------------------------------------------------------------------------------------------ loading


def test_bases_merge_in_order_and_the_file_wins(tmp_path: Path) -> None:
    write(tmp_path / "parts/a.yaml", "name: a\ninner: {rate: 1, sizes: [1, 2, 3]}\n")
    write(tmp_path / "parts/b.yaml", "base: c.yaml\ninner: {rate: 2}\n")
    write(tmp_path / "parts/c.yaml", "name: c\ninner: {rate: 9}\n")  # the path c.yaml is relative to b.yaml
    top = write(tmp_path / "run.yaml", "base: [parts/a.yaml, parts/b.yaml]\ninner: {sizes: [7]}\n")
    # name is a, then c (a base of b); rate is 1, then 9, then 2; sizes is a list, so it is replaced and not joined.
    assert config.resolve(top) == {"name": "c", "inner": {"rate": 2, "sizes": [7]}}


def test_a_shared_base_is_not_a_circle(tmp_path: Path) -> None:
    write(tmp_path / "shared.yaml", "name: shared\n")
    for name in ("a", "b"):
        write(tmp_path / f"{name}.yaml", "base: shared.yaml\n")
    assert config.resolve(write(tmp_path / "run.yaml", "base: [a.yaml, b.yaml]\n")) == {"name": "shared"}


def test_merge_changes_neither_input() -> None:
    under, over = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]}
    before = repr((under, over))
    assert config.merge(under, over) == {"a": {"b": 3, "c": 2}, "d": [2]}
    assert config.merge(under, {"a": 5}) == {"a": 5, "d": [1]}
    assert repr((under, over)) == before


def test_circle_of_bases(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "base: b.yaml\n")
    write(tmp_path / "b.yaml", "base: a.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        config.resolve(tmp_path / "a.yaml")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        config.resolve(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"gone\.yaml: no such file"):
        config.resolve(write(tmp_path / "run.yaml", "base: [gone.yaml]\n"))


@pytest.mark.parametrize("base", ["3", "{a: 1}", "[1]"])
def test_base_is_a_list_of_files(tmp_path: Path, base: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: 'base' "):
        config.resolve(write(tmp_path / "run.yaml", f"base: {base}\n"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4), ("3E4", 3e4), ("-1e3", -1e3), ("1.5e-2", 0.015), (".5e1", 5.0), ("3.0e-4", 3e-4), ("8", 8),
        ("true", True), ("null", None), ("[1, 2]", [1, 2]), ("3e", "3e"), ("e4", "e4"), ("v1e4", "v1e4"), ("", None),
    ],
)  # fmt: skip
def test_values(text: str, value: object) -> None:
    found = config.parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_overrides() -> None:
    content = {"name": "x", "inner": {"rate": 1.0, "sizes": [1]}}
    result = config.apply_overrides(content, ["inner.rate=3e-4", "inner.sizes=[4, 5]", "name=a=b", "inner.rate=2"])
    assert result == {"name": "a=b", "inner": {"rate": 2, "sizes": [4, 5]}}
    assert content["inner"] == {"rate": 1.0, "sizes": [1]}


@pytest.mark.parametrize("word", ["steps", "=3", "a..b=1", ".a=1", "a.=1"])
def test_not_an_override(word: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{re.escape(word)}' .*section\.key=value"):
        config.apply_overrides({}, [word])


def test_an_override_that_is_not_yaml() -> None:
    with pytest.raises(ConfigError, match=r"'\[1, 2'"):
        config.apply_overrides({}, ["a=[1, 2"])


@pytest.mark.parametrize("text", ["name: a\nname: b\n", "inner: {rate: 1, rate: 1}\n", "inner:\n  rate: 1\n  rate: 2\n"])
def test_a_key_given_twice(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: .*line \d: .*'(name|rate)'"):
        config.read_yaml(write(tmp_path / "run.yaml", text))


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "just words\n", "3\n"])
def test_a_config_is_a_mapping(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: .*mapping.*(list|str|int)"):
        config.read_yaml(write(tmp_path / "run.yaml", text))


@pytest.mark.parametrize("text", ["a: [1\n", "a: b: c\n", "\ta: 1\n", "{a: 1}: 2\n", "? [1, 2]\n: 3\n"])
def test_not_yaml(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: "):
        config.build(Outer, config.read_yaml(write(tmp_path / "run.yaml", text)), "run.yaml")


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"run\.yaml: .*utf-8"):
        config.read_yaml(tmp_path / "run.yaml")


def test_python_objects_are_refused(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    path = write(tmp_path / "run.yaml", f"a: !!python/object/apply:os.mkdir ['{witness}']\n")
    with pytest.raises(ConfigError, match=r"run\.yaml: .*python/object"):
        config.read_yaml(path)
    with pytest.raises(ConfigError):
        config.parse_value(f"!!python/object/apply:os.mkdir ['{witness}']")
    assert not witness.exists()


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    assert config.read_yaml(write(tmp_path / "run.yaml", "# nothing\n")) == {}


# ------------------------------------------------------------------------------------------------ errors of keys


def refusal(content: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        config.build(Outer, content, "run.yaml")
    return str(caught.value)


def test_unknown_key_names_the_nearest() -> None:
    assert refusal({"nmae": "x"}) == "run.yaml: unknown key 'nmae'; did you mean 'name'?"
    assert refusal({"inner": {"rat": 1}}) == "run.yaml: unknown key 'inner.rat'; did you mean 'inner.rate'?"
    # For a key of another section, the error names the key with its section.
    assert refusal({"sizes": 1}) == "run.yaml: unknown key 'sizes'; did you mean 'inner.sizes'?"
    assert refusal({"zzz": 1}) == "run.yaml: unknown key 'zzz'; known keys: inner, name"


def test_wrong_types_name_key_and_value() -> None:
    message = refusal({"inner": {"rate": "fast", "sizes": [1, "two"]}, "name": [3]})
    assert len(message.splitlines()) == 3  # all errors at once
    for part in ("'inner.rate'", "'fast'", "'inner.sizes.1'", "'two'", "'name'", "[3]"):
        assert part in message
    assert all(line.startswith("run.yaml: ") for line in message.splitlines())


def test_missing_key() -> None:
    with pytest.raises(ConfigError, match=r"'run' is missing.*run=VALUE"):
        config.build(programs.TokenizeRun, {"program": "tokenize_shards"}, "run.yaml")


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().name = "y"  # type: ignore[misc]


def test_flat_and_fingerprint() -> None:
    model = Outer(inner=Inner(rate=2, sizes=(1, 2)))
    assert config.flat(model) == {"name": "x", "inner.rate": 2.0, "inner.sizes": [1, 2]}
    assert config.fingerprint(model) == config.fingerprint(Outer.model_validate(model.model_dump()))
    assert config.fingerprint(model) != config.fingerprint(Outer())
    assert config.fingerprint("a", "b") != config.fingerprint("b", "a")


# ------------------------------------------------------------------------------------------------ the runs that exist


@pytest.mark.parametrize("path", RUNS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_run_loads_and_round_trips(path: Path, tmp_path: Path) -> None:
    run = programs.load_settings(path)
    again = programs.load_settings(write(tmp_path / "resolved.yaml", config.to_yaml(run)))
    assert again == run
    assert config.fingerprint(again) == config.fingerprint(run)


def test_there_are_runs_of_every_program() -> None:
    assert {programs.load_settings(path).program for path in RUNS} == set(programs.RUNS)


def test_every_run_divides_its_batch_on_its_own_cluster() -> None:
    for path in RUNS:
        run = programs.load_settings(path)
        if isinstance(run, programs.PretrainRun | programs.VideoTokenizerRun):
            world = run.cluster.nodes * run.cluster.devices_per_node
            assert world % run.parallel.tensor == 0, path
            assert run.train.accumulation(world // run.parallel.tensor) >= 1, path


def test_overrides_reach_the_run() -> None:
    run = programs.load_settings(TINY, ["train.lr=3e-4", "run.name=other", "train.betas=[0.8, 0.9]", "data.manifest=null"])
    assert isinstance(run, programs.PretrainRun)
    assert (run.train.lr, run.run.name, run.train.betas, run.data.manifest) == (3e-4, "other", (0.8, 0.9), None)


def test_a_run_of_another_program() -> None:
    with pytest.raises(ConfigError, match=r"python -m pretrain .*tiny\.yaml"):
        programs.load_settings_as(programs.TokenizeRun, TINY)
    with pytest.raises(ConfigError, match=r"video_tokenizer, tokenize_shards, pretrain.*'prtrain'"):
        programs.load_settings(TINY, ["program=prtrain"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.step=5"], r"unknown key 'train\.step'; did you mean 'train\.steps'\?"),
        (["trian.steps=5"], r"unknown key 'trian'; did you mean 'train'\?"),
        (["train.steps=many"], r"'train\.steps': .*integer.*\(got 'many'\)"),
        (["train.steps=0"], r"'train\.steps': .*greater than 0 \(got 0\)"),
        (["train.dtype=fp8"], r"'train\.dtype': .*'fp32' or 'bf16'.*'fp8'"),
        (["parallel.tensor=3"], r"llm\.heads 4 .*parallel\.tensor 3"),
        (["llm.heads=5"], r"'llm': width 128 .*heads 5"),
        (["llm.kv_heads=3"], r"'llm': heads 4 .*kv_heads 3"),
        (["parallel.tensor=2", "text.vocab_size=511"], r"text\.vocab_size 511 .*parallel\.tensor 2"),
        (["llm.rope_axes=[8, 12, 10]"], r"rope_axes \[8, 12, 10\] .*\b32\b"),
        (["llm.rope_axes=[7, 13, 12]"], r"rope_axes \[7, 13, 12\] .*even"),
        (["llm.rope_axes=[16, 16]"], r"'llm\.rope_axes"),
        (["video.height=40"], r"height 40 .*\b16\b.*try 32"),
        (["video.width=1"], r"width 1 .*\b16\b.*try 16"),
        (["text.vocab_size=260"], r"'text\.vocab_size': .*261 \(got 260\)"),
        (["run.name=../evil"], r"'run\.name': .*\.\./evil"),
        (["run.name=/etc"], r"'run\.name'"),
        (["run.name=.."], r"'run\.name'"),
        (["run.name=a/b"], r"'run\.name'"),
        (["run.name=''"], r"'run\.name'"),
        (['run.name="a\\n"'], r"'run\.name'"),
    ],
)
def test_refusals(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        programs.load_settings(TINY, words)


def test_run_directory_stays_under_its_root() -> None:
    for name in ("a", "a.b", "A-1_2", "1b", "a.."):
        run = programs.load_settings(TINY, [f"run.name='{name}'", "run.root=somewhere"])
        assert run.run.directory == Path("somewhere") / name
        assert run.run.directory.resolve().parent == Path("somewhere").resolve()


def test_accumulation() -> None:
    train = programs.load_settings_as(programs.PretrainRun, TINY, ["train.global_batch=24", "train.micro_batch=4"]).train
    assert [train.accumulation(ranks) for ranks in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(ConfigError, match=r"global_batch 24 .*micro_batch 4 .*\b4\b.*\b16\b.*try 16"):
        train.accumulation(4)
    with pytest.raises(ConfigError, match=r"\b8\b.*\b32\b.*try 32"):
        train.accumulation(8)


def test_the_yaml_of_a_run_is_plain() -> None:
    """Any YAML reader gives the same content back, because there are no tags or anchors."""
    run = programs.load_settings(TINY)
    assert yaml.safe_load(config.to_yaml(run)) == run.model_dump(mode="json")


def test_keys_of_older_files_are_still_read(tmp_path: Path) -> None:
    old = write(tmp_path / "old.yaml", "video: {frames: 8}\ndata: {block: 4}\n")
    new = {"clip": {"frames": 8, "fps": 4}, "data": {"read_together": 4}}
    assert config.apply_overrides(config.resolve(old), ["video.fps=4"]) == new
    assert config.apply_overrides(config.resolve(old), ["clip.fps=4", "data.block=4"]) == new
    both = write(tmp_path / "both.yaml", "video: {frames: 8}\nclip: {frames: 8}\n")
    with pytest.raises(ConfigError, match=r"both\.yaml.*'video'.*'clip'"):
        config.resolve(both)
