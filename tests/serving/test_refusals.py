"""What a server does not take: too much, too many, nobody's key, nobody there; and it lives on."""

import concurrent.futures
import json
import resource
import socket
import time

import httpx
import pytest
from conftest import KEY, POSITIONS

from fugaku_jax.errors import InputError
from fugaku_jax.serving.limits import Limits
from fugaku_jax.serving.server import listen

COMPLETIONS = "/v1/completions"
LONG = {"prompt": "むかし", "max_tokens": 480, "temperature": 0, "logit_bias": {}}


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """The status of an answer, and what it says; its shape is OpenAI's."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["message"]


def until(condition, seconds: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "The body is no JSON: "),
        (b"[1]", "The body is no JSON object."),
        (b"\xff\xfe", "The body is no JSON: "),
        (b'{"prompt": "\\ud800"}', "half of a surrogate pair"),
        (b'{"prompt": ' + b"[" * 50_000, "nested more than 64 levels deep"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "a whole number has 5000 digits"),
        (b'{"prompt": "a", "temperature": NaN}', "temperature: "),
        (b"", "The body: Field required."),
    ],
)
def test_what_is_no_request_is_a_400(server, content, message):
    headers = {"content-type": "application/json"}
    answer = httpx.post(server.url + COMPLETIONS, content=content, headers=headers)
    status, told = refusal(answer)
    assert status == 400
    assert message in told


def test_a_dialogue_without_words_of_the_user_is_refused(server):
    for messages in ([], [{"role": "tool", "content": "x"}], [{"role": "user"}]):
        answer = httpx.post(server.url + "/v1/chat/completions", json={"messages": messages})
        assert refusal(answer)[0] == 400
    answer = httpx.post(
        server.url + "/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "1" * POSITIONS}]},
    )
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_another_path_and_another_method_are_told_in_the_same_shape(server):
    assert refusal(httpx.get(server.url + "/v1/nothing"))[0] == 404
    assert refusal(httpx.get(server.url + "/../../etc/passwd"))[0] == 404
    answer = httpx.get(server.url + COMPLETIONS)
    assert refusal(answer)[0] == 405
    assert answer.headers["allow"] == "POST"


def test_a_page_of_another_origin_can_ask_nothing(server):
    """A browser sends what no preflight precedes: text/plain."""
    content = json.dumps({"prompt": "a", "max_tokens": 1})
    answer = httpx.post(
        server.url + COMPLETIONS, content=content, headers={"content-type": "text/plain"}
    )
    assert refusal(answer)[0] == 400
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("told", [True, False])
def test_a_body_of_100_mb_is_refused_before_it_is_held(server, told):
    part = b'{"prompt": "' + b"a" * (1 << 20)

    def parts():
        for _ in range(100):
            yield part

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    headers = {"content-type": "application/json"}
    if told:
        headers["content-length"] = str(100 * len(part))
    try:
        answer = httpx.post(server.url + COMPLETIONS, content=parts(), headers=headers)
    except httpx.TransportError as error:  # it may be refused while it is still being sent
        pytest.fail(f"the answer was lost: {error!r}")
    assert refusal(answer) == (413, "The body has more than 1,048,576 bytes.")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    assert httpx.get(server.url + "/health").status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(start):
    server = start(timeout_seconds=0.5)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_a_wrong_key_is_a_401_and_the_page_and_health_need_none(start):
    server = start(api_key=KEY)
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}):
        for path in ("/v1/models", "/metrics"):
            assert refusal(httpx.get(server.url + path, headers=headers))[0] == 401
        assert refusal(httpx.post(server.url + "/trace", json={}, headers=headers))[0] == 401
    headers = {"authorization": f"Bearer {KEY}"}
    assert httpx.get(server.url + "/v1/models", headers=headers).status_code == 200
    assert httpx.get(server.url + "/").status_code == 200
    assert httpx.get(server.url + "/health").status_code == 200


def test_a_client_that_vanishes_frees_its_slot(server, engine):
    for stream in (True, False):
        with socket.create_connection(server.url.removeprefix("http://").split(":")) as gone:
            body = json.dumps(LONG | {"stream": stream, "n": 8}).encode()
            head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            gone.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: engine.busy == engine.slots)
        until(lambda: not engine.busy and not engine.queued)
    assert httpx.post(server.url + COMPLETIONS, json=LONG | {"max_tokens": 1}).status_code == 200


def test_more_than_may_wait_are_429_and_the_others_are_answered(start):
    server = start(concurrent=6)

    def ask(_: int) -> httpx.Response:
        asked = LONG | {"max_tokens": 40}
        return httpx.post(server.url + COMPLETIONS, json=asked, timeout=120)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(16)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert refusal(refused)[1].startswith("6 texts are continued or wait at most")
    assert len({a.json()["choices"][0]["text"] for a in answers if a.status_code == 200}) == 1
    text = httpx.get(server.url + "/metrics").text
    counted = f'path="{COMPLETIONS}",status="429"}} {statuses.count(429)}.0'
    assert counted in text
    assert "fugaku_generated_tokens_total" in text
    assert "fugaku_up 1.0" in text


def test_an_answer_that_takes_too_long_is_given_up(start, engine):
    server = start(timeout_seconds=0.2)
    asked = LONG | {"n": 8}
    answer = httpx.post(server.url + COMPLETIONS, json=asked, timeout=60)
    assert refusal(answer) == (504, "The answer took more than 0.2 seconds.")
    streamed = httpx.post(server.url + COMPLETIONS, json=asked | {"stream": True}, timeout=60)
    last = streamed.text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
    until(lambda: not engine.busy and not engine.queued)


def test_a_text_is_traced_to_document_source_licence_and_steps(server, start, traced):
    run, _ = traced
    row = run.documents_in(0, 0, 0)[0]
    text = run.text(0, 0, 60)[0].decode()
    found = httpx.post(server.url + "/trace", json={"text": text}).json()
    origins = [each for span in found["spans"] for each in span["documents"]]
    assert found["share_found"] > 0.9
    assert any(
        (each["document"], each["licence"]) == (row["id"], row["licence"]) for each in origins
    )
    assert all(isinstance(each["steps"], list) for each in origins)
    answer = httpx.post(server.url + "/trace", json={"text": "a" * 20_001})
    assert refusal(answer)[0] == 400
    without = start(traces=False)
    assert refusal(httpx.post(without.url + "/trace", json={"text": "a"})) == (
        *(404, "Nothing is traced."),
    )


def test_an_engine_that_fails_is_told_and_health_says_so(start, engine, monkeypatch):
    server = start()

    def break_down() -> None:
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(engine, "step", break_down)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    answer = httpx.post(server.url + COMPLETIONS, json=LONG, timeout=60)
    assert refusal(answer)[0] == 503
    monkeypatch.undo()
    assert refusal(httpx.get(server.url + "/health"))[0] == 503
    assert refusal(httpx.post(server.url + COMPLETIONS, json=LONG))[0] == 503
    assert "fugaku_up 0.0" in httpx.get(server.url + "/metrics").text


def test_a_limit_of_nothing_and_a_place_that_is_taken_are_a_sentence(server):
    with pytest.raises(InputError, match=r"limits\.concurrent is 0"):
        Limits(concurrent=0)
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(InputError, match=r"--port \d+: cannot listen there: Address already"):
        listen("127.0.0.1", port)
    with pytest.raises(InputError, match="--host no such host --port 0: cannot listen there: "):
        listen("no such host", 0)
    with pytest.raises(InputError, match="--port is 70000, but it must be from 0 to 65535"):
        listen("127.0.0.1", 70_000)
