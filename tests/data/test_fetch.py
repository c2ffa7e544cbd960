"""Fetching from a server on this machine: checked, unpacked safely, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from goodnet.cli import main
from goodnet.data import fetch as fetching
from goodnet.data.fetch import DATA_SETS, digest_of, fetch
from goodnet.errors import DataError, SettingsError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "speech" / "recordings"
FILES = {"0_ann_0.wav": b"zero", "1_ann_0.wav": b"one"}
LINES = "".join(f"{hashlib.sha256(FILES[name]).hexdigest()}  {name}\n" for name in sorted(FILES))


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


GOOD = {f"digits-1/recordings/{name}": data for name, data in FILES.items()} | {
    "digits-1/README.md": b"CC BY-SA",
    "digits-1/setup.py": b"print()",
}


class Server(ThreadingHTTPServer):
    """Answers every request with `content`, and may promise more than it has."""

    content = zipped(GOOD)
    promised: int | None = None
    status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/digits.zip"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        self.send_response(server.status)
        self.send_header("Content-Length", str(server.promised or len(server.content)))
        self.end_headers()
        self.wfile.write(server.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        digest = hashlib.sha256(LINES.encode()).hexdigest()
        known = replace(DATA_SETS["fsdd"], url=server.url, digest=digest, recordings=2)
        monkeypatch.setattr(fetching, "DATA_SETS", {"fsdd": known})
        yield server
        server.shutdown()


def test_what_comes_is_unpacked_and_the_rest_is_left(server: Server, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    folder = fetch("fsdd", tmp_path / "a" / "digits", told=lambda *row: told.append(row))
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {f"recordings/{name}": data for name, data in FILES.items()} | {
        "README.md": b"CC BY-SA"
    }
    assert told[-1] == ("fetching", len(server.content), len(server.content))
    assert list(folder.parent.iterdir()) == [folder]


def test_what_is_there_already_is_checked_and_not_fetched_again(
    server: Server, tmp_path: Path
) -> None:
    fetch("fsdd", tmp_path / "digits")
    server.status = 500
    fetch("fsdd", tmp_path / "digits")
    (tmp_path / "digits" / "recordings" / "0_ann_0.wav").write_bytes(b"nought")
    with pytest.raises(DataError, match="holds something that is not fsdd as it is published"):
        fetch("fsdd", tmp_path / "digits")
    assert (tmp_path / "digits" / "README.md").exists()


def test_no_path_leads_out_of_the_folder(server: Server, tmp_path: Path) -> None:
    outside = {
        "../1_eve_0.wav": b"x",
        "digits-1/recordings/../../../1_eve_1.wav": b"x",
        "/tmp/recordings/1_eve_2.wav": b"x",  # noqa: S108
        "digits-1/recordings/deep/1_eve_3.wav": b"x",
    }
    server.content = zipped(GOOD | outside)
    fetch("fsdd", tmp_path / "a" / "b" / "c" / "digits")
    assert not list(tmp_path.rglob("*eve*"))


GOOD_ZIP = zipped(GOOD)
FAILURES: dict[str, tuple[dict[str, object], str]] = {
    "other recordings": (
        {"content": zipped(GOOD | {"digits-1/recordings/1_ann_0.wav": b"two"})},
        "holds 2 recordings that are not the 2 of fsdd",
    ),
    "a recording too few": (
        {"content": zipped({"digits-1/recordings/0_ann_0.wav": b"zero"})},
        "holds 1 recordings that are not the 2",
    ),
    "no zip": ({"content": b"<html>"}, "sends no readable .zip"),
    "damage": ({"content": GOOD_ZIP.replace(b"one", b"eno")}, "sends no readable .zip"),
    "two of one name": (
        {"content": zipped(GOOD | {"digits-2/recordings/0_ann_0.wav": b"zero"})},
        "holds two files of one name",
    ),
    "broken off": ({"promised": len(GOOD_ZIP) + 1}, "broke off after|cannot be fetched"),
    "not there": ({"status": 404}, r"answers 404 \(Not Found\); check the address"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_after_a_failure_nothing_is_left(case: str, server: Server, tmp_path: Path) -> None:
    changes, text = FAILURES[case]
    for name, value in changes.items():
        setattr(server, name, value)
    with pytest.raises(DataError, match=text):
        fetch("fsdd", tmp_path / "a" / "digits")
    assert list(tmp_path.iterdir()) == []


def test_too_much_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_LARGEST_CONTENT", 3)
    with pytest.raises(DataError, match="unpacks to 15 bytes"):
        fetch("fsdd", tmp_path / "digits")
    monkeypatch.setattr(fetching, "_LARGEST_ARCHIVE", 3)
    with pytest.raises(DataError, match="sends more than 3 bytes"):
        fetch("fsdd", tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_is_offline_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"cannot be fetched \(.*refused.*\); see that this machine"
    ):
        fetch("fsdd", tmp_path / "digits", url="http://127.0.0.1:9/x.zip")
    with pytest.raises(SettingsError, match=r"url is 'file:///x.zip'; give an address"):
        fetch("fsdd", tmp_path / "digits", url="file:///x.zip")
    with pytest.raises(SettingsError, match="name is 'mnist'; choose one of: fsdd"):
        fetch("mnist", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file; name a folder"):
        fetch("fsdd", tmp_path / "file")


def test_the_command(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "fetch", "fsdd", "-q"]) == 0
    assert capsys.readouterr().out == "fsdd\n"
    assert len(list((tmp_path / "fsdd" / "recordings").iterdir())) == 2
    assert main(["data", "fetch", "fsdd", "--out", "b", "--url", "ftp://x"]) == 2
    assert "goodnet data: --url is 'ftp://x'; give an address" in capsys.readouterr().err


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data is not beside the repository")
def test_the_digest_is_that_of_the_recordings() -> None:
    assert digest_of(REAL) == DATA_SETS["fsdd"].digest
    assert len(list(REAL.iterdir())) == DATA_SETS["fsdd"].recordings
