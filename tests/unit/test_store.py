"""Addresses of MLflow stores: quoted where a sign means something, shown without secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from lvm.views.tracking.store import (
    Refused,
    absolute,
    in_words,
    no_stray_folder,
    require_openable,
    restoring,
    sqlite_path,
    sqlite_uri,
    ui_command,
    without_password,
)

ODD = ["a%20b", "100 %", "what?", "a?b=c", "e#f", "my runs", "né"]


@pytest.mark.parametrize("name", ODD)
def test_a_path_comes_back_from_its_uri_here_and_in_sqlalchemy(name: str):
    path = Path("/runs") / name / "mlflow.db"
    uri = sqlite_uri(path)
    assert sqlite_path(uri) == path
    assert absolute(uri) == uri
    sqlalchemy = pytest.importorskip("sqlalchemy")
    assert sqlalchemy.engine.make_url(uri).database == str(path)


def test_a_uri_of_a_person_is_read_as_sqlalchemy_reads_it():
    assert sqlite_path("sqlite:////a%20b/c.db") == Path("/a b/c.db")
    assert sqlite_path("sqlite:////a/c.db?timeout=5") == Path("/a/c.db")
    assert sqlite_path("sqlite:///") is None
    assert sqlite_path("http://here/a") is None


@pytest.mark.parametrize("uri", ["http://me:secret@host:5000/x", "http://secret@host:5000/x"])
def test_what_stands_before_the_host_is_never_shown(uri: str, tmp_path: Path):
    assert without_password(uri) == "http://***@host:5000/x"
    told = in_words(OSError(f"cannot reach {uri}"), uri, tmp_path)
    assert "secret" not in told + ui_command(uri) + restoring("1", uri)
    assert without_password("http://host/a@b") == "http://host/a@b"


def test_a_file_that_is_no_database_is_named_at_once(tmp_path: Path):
    store = tmp_path / "mlflow.db"
    require_openable(store)  # none is one that will be made
    store.write_bytes(b"no database at all" * 100)
    with pytest.raises(Refused, match="move it away, or set MLFLOW_TRACKING_URI") as refused:
        require_openable(store)
    told = in_words(refused.value, sqlite_uri(store), tmp_path)
    assert "when it answers" not in told
    assert "lvm track" in told


def test_the_folder_that_a_quoted_path_leaves_behind_goes_away(tmp_path: Path):
    uri = sqlite_uri(tmp_path / "a%20b" / "mlflow.db")
    stray = Path(uri.removeprefix("sqlite:///")).parent
    with no_stray_folder(uri):
        stray.mkdir(parents=True)
    assert not stray.exists()
    stray.mkdir()  # one that was there stays
    with no_stray_folder(uri):
        pass
    assert stray.exists()
