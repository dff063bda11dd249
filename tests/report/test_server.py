"""A running study's report over HTTP: what it shows as cells end, and what it shows to nobody."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorabench.commands.main import main
from lorabench.errors import StoreError
from lorabench.record.store import Store
from lorabench.report import server as module
from lorabench.report.server import open_server
from tests import synthetic
from tests.report.stores import STUDY, filled

SMALL = STUDY.replace("[1, 4, 16]", "[1, 4]")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, int]]:
    """A study of which one cell has ended, and the port where it is shown."""
    folder = tmp_path_factory.mktemp("served")
    seen: list[object] = []
    store = filled(folder, SMALL, lambda r: seen.append(r) or r if len(seen) < 1 else None)
    with open_server(store, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield store, server.server_address[1]
        server.shutdown()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one real request, whose path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def test_the_report_follows_the_cells_and_the_folder_is_as_it_was(
    served: tuple[Store, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARE", 1.0)
    store, port = served
    before, total = contents(store.folder), len(store.plan())
    status, _, body = ask(port, "/report")
    assert status == 200
    assert f"1 of {total} cells have finished".encode() in body
    state = json.loads(ask(port, "/state")[2])
    assert (state["cells"], state["ended"], state["begun"], state["number"]) == (total, 1, total - 1, 1)
    assert contents(store.folder) == before
    cell = next(c for c in store.plan() if store.get(c.id) is None)
    store.put(synthetic.open_worker().run(cell, store.partial(cell.id), lambda event: None))
    assert json.loads(ask(port, "/state")[2])["ended"] == 2
    deadline = time.monotonic() + 60
    while json.loads(ask(port, "/state")[2])["number"] < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert f"2 of {total} cells have finished".encode() in ask(port, "/report")[2]


def test_the_page_names_the_study_and_asks_nobody_but_this_server(served: tuple[Store, int]) -> None:
    status, headers, body = ask(served[1], "/")
    assert status == 200
    assert b"<title>small: lorabench</title>" in body and b"{{" not in body
    assert "default-src 'none'; script-src 'self'" in headers["Content-Security-Policy"]
    status, headers, body = ask(served[1], "/", "HEAD")
    assert (status, body) == (200, b"") and int(headers["Content-Length"]) > 0
    assert b"location.reload" in ask(served[1], "/served.js")[2]


@pytest.mark.parametrize(
    "path",
    [
        *("/plan.json", "/study.yaml", "/cells/", "/report/../plan.json", "/../plan.json", "/..%2fplan.json"),
        *("/%2e%2e/plan.json", "//etc/passwd", "/report/%00", "/served.html", "/report.html", "\\..\\plan.json"),
        *("http://127.0.0.1/plan.json", "/" + "a" * 5000, "*"),
    ],
)
def test_no_path_names_a_file(served: tuple[Store, int], path: str) -> None:
    status, _, body = ask(served[1], path)
    assert status == 404
    assert body == b"there are /, /report and /state\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "X"])
def test_nothing_but_reading_is_answered(served: tuple[Store, int], method: str) -> None:
    before = contents(served[0].folder)
    assert ask(served[1], "/report", method)[0] == 501
    assert contents(served[0].folder) == before


@pytest.mark.parametrize("host", ["example.org", "example.org:80", "127.0.0.1.example.org", "", "localhost.evil.net:1"])
def test_another_name_for_this_machine_is_refused(served: tuple[Store, int], host: str) -> None:
    for path in ("/", "/report", "/state"):
        status, _, body = ask(served[1], path, Host=host)
        assert (status, body) == (403, b"this report is shown to this machine alone\n")


def test_a_tunnel_s_own_port_is_this_machine_too(served: tuple[Store, int]) -> None:
    assert ask(served[1], "/state", Host="localhost:9000")[0] == 200


def test_it_listens_to_this_machine_alone(served: tuple[Store, int]) -> None:
    with open_server(served[0], 0) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 70000],
)
def test_what_is_no_request_ends_its_connection_and_no_other(served: tuple[Store, int], sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served[1]), timeout=10) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            assert b"Traceback" not in client.recv(65536)
    assert ask(served[1], "/state")[0] == 200


def test_a_plan_that_is_damaged_leaves_the_last_report_and_says_so(tmp_path: Path) -> None:
    store = filled(tmp_path, SMALL)
    with open_server(store, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert b"finished" in ask(port, "/report")[2]
        (store.folder / "plan.json").write_text("{", encoding="utf-8")
        assert "plan.json cannot be read" in json.loads(ask(port, "/state")[2])["fault"]
        assert b"finished" in ask(port, "/report")[2]
        server.shutdown()


def test_a_port_that_is_taken_and_a_folder_that_is_none_are_sentences(
    served: tuple[Store, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StoreError, match=f"port {served[1]} of 127.0.0.1 cannot be had"):
        open_server(served[0], served[1])
    assert main(["serve", str(tmp_path)]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["serve", str(tmp_path), "--port", "70000"])
    assert "from 0 to 65535" in capsys.readouterr().err
