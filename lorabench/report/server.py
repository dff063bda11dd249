"""A study's report over HTTP on this machine alone, made anew as cells end.

    /          a line of what has ended, and the report below it in a frame
    /report    the report, as `lorabench report` writes it
    /state     JSON: cells, ended, begun (running, or cut off), the report's number, when it was made, why it is old
    /served.js the script of /

There are no other paths: no request names a file. Only GET and HEAD are answered, and only where the request's Host is
this machine, so that no page of another site can read the report through a name that it lets point here. Nothing is
written to the study, and none of its locks is taken.

A report takes from a second to half a minute to make, on a machine whose cells are being timed: it is made while
somebody looks, and takes a tenth of the time at most.
"""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import UTC, datetime
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from lorabench.errors import StoreError
from lorabench.record.result_file import first_line
from lorabench.record.store import Store
from lorabench.record.whole_files import stamp
from lorabench.report.page import page
from lorabench.report.view import make_view

ADDRESS = "127.0.0.1"
SHARE = 0.1  # of the time, that goes into making reports
_HOSTS = ("127.0.0.1", "localhost")
_FOLDER = Path(__file__).parent
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_SHELL_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; frame-src"
    " 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


class LiveReport:
    """The report of a store as it was a moment ago."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looked, self._made = threading.Event(), threading.Event()
        self._page, self._number, self._made_at, self._fault = b"", 0, "", ""
        self._seen: object = None
        threading.Thread(target=self._keep, daemon=True, name="report").start()

    def page(self) -> bytes:
        """The report as it is; waits for the first one."""
        self._looked.set()
        self._made.wait()
        return self._page

    def state(self) -> dict[str, object]:
        """What the line above the report says."""
        self._looked.set()
        counts = dict.fromkeys(("cells", "ended", "begun"), 0)
        try:
            planned, found = {c.id for c in self._store.plan()}, set(self._folders())
            counts["cells"] = len(planned)
            counts["ended"] = len(planned & found)
            counts["begun"] = sum(f"{cell}.partial" in found for cell in planned)
        except StoreError as e:
            return {**counts, "number": self._number, "made": self._made_at, "fault": str(e)}
        return {**counts, "number": self._number, "made": self._made_at, "fault": self._fault}

    def _keep(self) -> None:
        while True:
            self._looked.wait()
            self._looked.clear()
            try:
                now = self._whole()
                if now == self._seen and self._number:
                    continue
                began = time.monotonic()
                made = datetime.now(UTC)
                self._page = page(make_view(self._store), made).encode()
                self._fault, self._made_at = "", f"{made:%H:%M:%S} UTC"
                self._seen, self._number = now, self._number + 1
            except Exception as e:  # a plan that is being rewritten, a damaged result: the former report stays
                began = time.monotonic()
                self._fault = f"the report could not be made ({first_line(e)})"
                self._page = self._page or _sentence_page(self._fault)
            self._made.set()
            time.sleep(max(0.2, (time.monotonic() - began) * (1 / SHARE - 1)))

    def _folders(self) -> list[str]:
        return os.listdir(self._store.cells_folder) if self._store.cells_folder.is_dir() else []

    def _whole(self) -> object:
        """What changes when a cell ends, is replaced, or the study is planned anew."""
        plan = stamp(self._store.folder / "plan.json")
        if not self._store.cells_folder.is_dir():
            return plan
        with os.scandir(self._store.cells_folder) as entries:
            return plan, {(e.name, e.stat().st_mtime_ns) for e in entries if "." not in e.name}


def open_server(store: Store, port: int) -> ThreadingHTTPServer:
    """A server on this machine's own address, port 0 for a free one; `serve_forever` answers.

    Raises:
        StoreError: the port cannot be had.
    """
    report = LiveReport(store)

    class Handler(_Handler):
        live = report
        title = store.study().name

    try:
        server = ThreadingHTTPServer((ADDRESS, port), Handler)
    except OSError as e:
        raise StoreError(
            f"port {port} of {ADDRESS} cannot be had ({e.strerror}); choose another with --port N, or --port 0 for one"
            " that is free"
        ) from None
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; http.server refuses what has no method here."""

    live: LiveReport
    title: str
    timeout = 30.0  # seconds that a client may take to say what it wants
    server_version, sys_version = "lorabench", ""

    def do_GET(self) -> None:
        try:
            self._answer()
        except (BrokenPipeError, ConnectionResetError, TimeoutError):  # whoever asked has left
            self.close_connection = True

    do_HEAD = do_GET

    def _answer(self) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in _HOSTS:
            self._send(b"this report is shown to this machine alone\n", "text/plain", HTTPStatus.FORBIDDEN)
            return
        match urlsplit(self.path).path:
            case "/":
                html = _text("served.html").replace("{{ title }}", escape(self.title))
                self._send(html.encode(), "text/html", policy=_SHELL_POLICY)
            case "/served.js":
                self._send(_text("served.js").encode(), "text/javascript")
            case "/report":
                self._send(self.live.page(), "text/html", policy="frame-ancestors 'self'")
            case "/state":
                self._send(json.dumps(self.live.state()).encode(), "application/json")
            case _:
                self._send(b"there are /, /report and /state\n", "text/plain", HTTPStatus.NOT_FOUND)

    def _send(
        self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, policy: str = "default-src 'none'"
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)), **_HEADERS}
        for name, value in (*headers.items(), ("Content-Security-Policy", policy)):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal is the user's."""


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _sentence_page(sentence: str) -> bytes:
    return f"<!doctype html><meta charset=utf-8><title>lorabench</title><p>{escape(sentence)}".encode()
