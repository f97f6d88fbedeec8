"""No password and no token of a URI is written anywhere."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest

from hitvideo.reports.page import write
from hitvideo.runs.directory import RunDirectory
from hitvideo.runs.program import show_log
from hitvideo.runs.secrets import MaskedFormatter, masked, without_secrets_of
from hitvideo.runs.writer import RunWriter
from hitvideo.settings.run import TrackingSection
from hitvideo.tracking.tracker import Tracker
from tests.runs.helpers import settings

HIDDEN = {
    "http://me:s3cret@host:9/": "http://***@host:9/",
    "https://s3cret@host/x": "https://***@host/x",
    "http://me:s3c@ret@host/": "http://***@host/",
    "postgresql://me:s3/c?r#et@db:5/ml": "postgresql://***@db:5/ml",
    "mysql+pymysql://:s3cret@db/ml": "mysql+pymysql://***@db/ml",
    "https://host/a.tar?sv=1&sig=s3cret": "https://host/a.tar?***",
    "https://host/#access_token=s3cret": "https://host/?***",
    "simplecache::s3://key:s3cret@bucket/{000..009}.tar": "simplecache::s3://***@bucket/{000..009}.tar",
}
PLAIN = [
    "", "runs/a@b?c=d", "file:x", "sqlite:////data/a@b/mlflow.db", "http://host:8080/path@v1", "s3://bucket/0000?.tar",
    "s3://bucket/a@b/x.tar", "http://host/ and a@b", "10:30 a@b ?x=y",
]  # fmt: skip


@pytest.mark.parametrize("uri", HIDDEN)
def test_user_password_and_query_are_masked(uri: str) -> None:
    assert masked(uri) == HIDDEN[uri] == masked(masked(uri))
    assert masked(f"see '{uri}', or\n{uri} there") == f"see '{HIDDEN[uri]}', or\n{HIDDEN[uri]} there"


@pytest.mark.parametrize("text", PLAIN)
def test_what_holds_no_secret_stays(text: str) -> None:
    assert masked(text) == text


def test_an_error_that_quotes_the_secret_alone() -> None:
    uri = "http://me:s3c%40ret@host/?token=t0ken"
    assert without_secrets_of(uri, "s3c@ret, s3c%40ret, /?token=t0ken, http://me:x@host") == (
        "***, ***, /?token=***, http://***@host"
    )


def test_a_log_line_and_its_traceback_are_masked() -> None:
    try:
        raise OSError("http://me:s3cret@host is down")
    except OSError as error:
        record = logging.LogRecord("x", 20, "", 1, "at %s", ("http://me:s3cret@host",), (OSError, error, error.__traceback__))
    line = MaskedFormatter("%(message)s").format(record)
    assert "Traceback" in line
    assert "s3cret" not in line
    show_log()
    assert any(isinstance(handler.formatter, MaskedFormatter) for handler in logging.getLogger().handlers)


def test_nothing_in_a_run_its_log_or_its_store_holds_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    words = ["tracking.uri=http://me:s3cret@127.0.0.1:9/", "data.manifest=https://host/manifest.json?sig=s3cret"]
    run = settings(tmp_path, *words, "text.model=ftp://me:s3cret@host/t.model")
    directory = RunWriter(run, writer=True)
    directory.append_metrics({"step": 1, "loss": 1.0})
    store = f"sqlite:///{tmp_path}/mlflow.db"
    for section in (TrackingSection(uri=store), run.tracking):  # settings with secrets in a store; a store with a secret
        with Tracker(section, directory.path, attempt=directory.attempt) as tracker:
            tracker.finish("FINISHED")
    write([directory.path])
    RunWriter(run, writer=True)  # compares equal
    assert RunDirectory(directory.path).settings.tracking.uri == "http://***@127.0.0.1:9/"
    assert "127.0.0.1" in caplog.text
    assert "s3cret" not in caplog.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.yaml", "report.html", "mlflow.db"} <= {path.name for path in files}
    assert not [path for path in files if b"s3cret" in path.read_bytes()]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        found = database.execute("select value from params where key = 'data.manifest'").fetchall()
    assert found == [("https://host/manifest.json?***",)]


def test_a_report_of_an_older_run_is_masked(tmp_path: Path) -> None:
    directory = RunWriter(settings(tmp_path), writer=True)
    directory.config.write_text(directory.config.read_text() + "# http://me:s3cret@host\n")
    write([directory.path])
    assert "s3cret" not in directory.report.read_text()
