"""Servers on this machine, in the place of those that files are fetched from."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

HUB = "/api/datasets/someone/texts"
"""A data set as the Hugging Face Hub tells of it: what it is, and its files below `/tree/main`."""
RESOLVED = "/datasets/someone/texts/resolve/main/"


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder's files, as themselves and as a data set on a Hub; give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path in (HUB, f"{HUB}/revision/main"):
                self._answer(json.dumps({"id": "someone/texts", "siblings": []}).encode())
            elif path.startswith(f"{HUB}/tree/main"):
                entries = [
                    {"type": "file", "path": each.name, "size": each.stat().st_size, "oid": "0"}
                    for each in sorted(folder.iterdir())
                ]
                self._answer(json.dumps(entries).encode())
            else:
                name = path.removeprefix(RESOLVED).removeprefix("/")
                there = "/" not in name and (folder / name).is_file()
                self._answer((folder / name).read_bytes() if there else None)

        do_HEAD = do_GET

        def _answer(self, data: bytes | None) -> None:
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
