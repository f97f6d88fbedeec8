"""The list of comparisons is that of the files, and the command refuses what it cannot run before it runs anything."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from benchmarks.rows import ROWS
from hitvideo.commands import benchmark
from hitvideo.commands.cli import parsed
from hitvideo.errors import ConfigError
from tests.conftest import ROOT

FOLDER = ROOT / "benchmarks"
HELPERS = {"__init__", "rows"}


def imported(path: Path) -> set[str]:
    """First parts of the modules that a file imports, and the benchmarks it takes parts of."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        found |= {name if name.startswith("benchmarks.") else name.partition(".")[0] for name in names}
    return found


def test_every_file_is_a_row_with_its_command() -> None:
    names = {path.stem for path in FOLDER.glob("*.py")} - HELPERS
    assert {row.name for row in ROWS} == names
    for name in names:
        source = (FOLDER / f"{name}.py").read_text()
        assert f"python -m benchmarks.{name}" in (ast.get_docstring(ast.parse(source)) or "")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_rows_peers_are_what_it_imports(row: object) -> None:
    """Of the packages that the project itself does not need."""
    assert isinstance(row, type(ROWS[0]))
    used = imported(FOLDER / f"{row.name}.py")
    for other in [name for name in used if name.startswith("benchmarks.")]:
        used |= imported(ROOT / f"{other.replace('.', '/')}.py")
    optional = used & {"transformers", "diffusers", "litdata", "webdataset"}
    assert row.needs.keys() | row.optional.keys() == optional
    assert all(install.startswith("pip install ") for install in {**row.needs, **row.optional}.values())


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.benchmark(parsed(["benchmark", "--json"])) == 0
    assert json.loads(capsys.readouterr().out).keys() == {row.name for row in ROWS}
    assert benchmark.benchmark(parsed(["benchmark"])) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert listed == [*(row.name for row in ROWS), benchmark.FIRST_HOUR]


@pytest.mark.parametrize(
    ("words", "named"),
    [(["lama"], "lama"), (["llama", benchmark.FIRST_HOUR], benchmark.FIRST_HOUR), (["llama", "--out", "x.yaml"], "--out")],
)
def test_what_is_refused(words: list[str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        benchmark.benchmark(parsed(["benchmark", *words]))


def test_without_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(benchmark, "_CHECKOUT", tmp_path)
    with pytest.raises(ConfigError, match=benchmark.FIRST_HOUR):
        benchmark.benchmark(parsed(["benchmark"]))


def test_a_peer_that_is_not_installed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with its command, nothing runs, and the exit code says so."""
    row = type(ROWS[0])("loader", "x", "y", {"no_such_package": "pip install no-such-package"})
    monkeypatch.setattr("benchmarks.rows.ROWS", (row,))
    assert benchmark.benchmark(parsed(["benchmark", "loader"])) == 1
    assert "pip install no-such-package" in capsys.readouterr().out
