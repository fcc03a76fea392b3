"""`bench.py serving` counts what clients hear: held to a small server of known answers."""

import importlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fugaku_jax.errors import InputError

ROOT = Path(__file__).parents[2]
EVENTS = ({"choices": [{"text": "a"}]}, {"choices": [], "usage": {"completion_tokens": 3}})


@pytest.fixture
def url():
    """A server that answers by turns: whole, 429, and with a stream that breaks off."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, b"process_resident_memory_bytes 2e+06\nfugaku_busy_slots 1.0\n")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(self.headers["authorization"])
            events = "".join(f"data: {json.dumps(each)}\n\n" for each in EVENTS)
            kind = len(asked) % 3
            end = "" if kind == 0 else "data: [DONE]\n\n"
            self.answer(429 if kind == 2 else 200, (events + end).encode())

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    assert set(asked) <= {"Bearer k"}


@pytest.fixture
def bench(monkeypatch, capsys):
    """Run the program; return its JSON."""
    monkeypatch.syspath_prepend(ROOT / "launch")
    program = importlib.import_module("bench")
    monkeypatch.setattr(program, "say", lambda _: None)

    def run(*arguments: object) -> dict:
        monkeypatch.setattr(sys, "argv", ["bench.py", "serving", *map(str, arguments), "--json"])
        program.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_answers_refusals_and_broken_streams_are_told_apart(bench, url):
    found = bench("--url", url, "--clients", 3, "--seconds", 0.5, "--tokens", 3, "--api-key", "k")
    statuses = found["statuses"]
    assert set(statuses) == {"200", "429", "broken"}
    assert found["tokens_per_second"] > 0
    assert found["answer_seconds_p50"] <= found["answer_seconds_p99"]
    assert (found["memory_before_mb"], found["busy_after"]) == (2, 1)


def test_where_no_server_is_it_is_said(bench):
    with pytest.raises(InputError, match=r"--url http://127\.0\.0\.1:9: no server of ours answers"):
        bench("--url", "http://127.0.0.1:9")
