"""A judge for tests: an OpenAI-compatible server in this process that fails as it is told."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class StubJudge:
    """What was asked, and how the judge behaves."""

    def __init__(self) -> None:
        self.url = ""
        self.answered: Counter[str] = Counter()
        """How often each prompt got an answer."""
        self.keys: set[str | None] = set()
        self.failed = 0
        self.say: Callable[[str], str] = lambda _: "Rating: [[7]]"
        """What it answers to a prompt."""
        self.fault: Callable[[str], int | str | None] = lambda _: None
        """What it does instead: a status, "silence" (the line is cut), bytes as text, or None."""


@contextmanager
def stub_judge() -> Iterator[StubJudge]:
    """Start a judge, and stop it."""
    judge = StubJudge()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions"
            assert asked["temperature"] == 0
            assert asked["model"] == "stub"
            system, user = asked["messages"]
            assert (system["role"], user["role"]) == ("system", "user")
            judge.keys.add(self.headers["Authorization"])
            fault = judge.fault(user["content"])
            if fault is not None:
                judge.failed += 1
            if fault == "silence":
                self.close_connection = True
                return
            text = judge.say(user["content"])
            body = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})
            self.send_response(fault if isinstance(fault, int) else 200)
            if isinstance(fault, int):
                self.send_header("Retry-After", "0")
                self.send_header("Location", "/v1/elsewhere")
            body = fault if isinstance(fault, str) else body
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())
            judge.answered[user["content"]] += fault is None

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
