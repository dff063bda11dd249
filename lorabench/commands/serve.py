"""The command serve: a study's report in the browser, refreshed as its cells end."""

from __future__ import annotations

import argparse

PORT = 8321


def add_serve_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("directory", metavar="DIR", help="results directory, of a study that runs or has run")
    c.add_argument(
        "--port", metavar="N", type=_port, default=PORT, help=f"on 127.0.0.1; 0 takes a free one (default: {PORT})"
    )


def serve(options: argparse.Namespace) -> int:
    """Answers until Ctrl-C; changes nothing in the directory."""
    from lorabench.record.store import Store
    from lorabench.report.server import open_server

    store = Store.open(options.directory)
    with open_server(store, options.port) as server:
        host, port = server.server_address[:2]
        print(f"{store.study().name}: http://{host!s}:{port} (on this machine alone; Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def _port(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; write a number from 0 to 65535, such as {PORT}")
    return number
