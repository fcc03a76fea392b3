"""`launch/serve.py`: it answers, ends when told to, and says in a sentence what it cannot."""

import contextlib
import functools
import importlib
import itertools
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import transformers

from fugaku_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data import builtin
from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import train
from fugaku_jax.errors import InputError
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.identity import claim_run_dir, run_identity
from fugaku_jax.tracing.text_index import build_index
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.state import init_state

ROOT = Path(__file__).parents[2]
ASKED = {"prompt": "むかし", "temperature": 0, "stream": True}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run with untrained weights that end no text soon, saved at step 1, and its store."""
    folder = tmp_path_factory.mktemp("serve")
    documents = list(itertools.islice(builtin.documents("ja"), 30))
    (folder / "ja.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    tokenizer = train([each["text"] for each in documents], 700)
    build_store(
        str(folder / "store"), [InputSet("ja", (folder / "ja.jsonl",), "ja", 1.0)], tokenizer
    )
    config = Config(
        model=ModelConfig(vocab_size=700, n_layers=2, d_model=64, n_heads=2, sequence_length=2048),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=4, batch_size=2),
        data=DataConfig(store=str(folder / "store")),
    )
    store = Store.open(config.data.store)
    claim_run_dir(folder / "run", config, store, run_identity(config, store))
    with RunCheckpoints(folder / "run", config.checkpoint) as checkpoints:
        layout = make_layout(config)
        checkpoints.save(1, layout, init_state(layout), {"config": config.to_dict()})
    build_index(store, folder / "index")
    return folder / "run"


@contextlib.contextmanager
def serving(*arguments):
    """Start the program; yield it and where it answers."""
    command = [sys.executable, ROOT / "launch" / "serve.py", *arguments, "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(list(map(str, command)), **pipes) as program:
        try:
            url = program.stdout.readline().strip()
            assert url.startswith("http"), program.stderr.read()
            yield program, url
        finally:
            program.kill()


@pytest.mark.slow
def test_told_to_end_it_gives_the_answers_that_it_has_begun(run_dir):
    arguments = ["--index", run_dir.parent / "index", "--limits.drain-seconds", 120]
    with serving(run_dir, *arguments) as (program, url):
        assert url.startswith("http://127.0.0.1:")
        port = int(url.rpartition(":")[2])
        with httpx.stream("POST", f"{url}/v1/completions", json=ASKED, timeout=120) as warm:
            assert warm.read()
        asked = ASKED | {"max_tokens": 200}
        with httpx.stream("POST", f"{url}/v1/completions", json=asked, timeout=120) as answer:
            lines = answer.iter_lines()
            said = [next(lines)]
            program.send_signal(signal.SIGTERM)
            said += lines
        assert [line for line in said if line][-1] == "data: [DONE]"
        assert program.wait(60) == 0
        assert program.stderr.read() == ""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


@pytest.mark.slow
def test_shared_by_devices_for_all_with_another_template(run_dir, tmp_path):
    (tmp_path / "template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}。")
    arguments = [
        *("--host", "0.0.0.0", "--dtype", "float16", "--slots", 2, "--limits.max-tokens", 3),
        *(
            "--emulate-devices",
            2,
            "--mesh.tensor",
            2,
            "--chat-template",
            tmp_path / "template.jinja",
        ),
        *("--store", run_dir.parent / "store", "--limits.drain-seconds", 1),
    ]
    with serving(run_dir, *arguments) as (program, url):
        url = url.replace("0.0.0.0", "127.0.0.1")
        asked = {"messages": [{"role": "user", "content": "山"}], "max_tokens": 9}
        answer = httpx.post(f"{url}/v1/chat/completions", json=asked, timeout=120).json()
        assert answer["usage"]["completion_tokens"] <= 3
        alone = httpx.post(f"{url}/v1/completions", json={"prompt": "山。", "max_tokens": 1})
        assert answer["usage"]["prompt_tokens"] == alone.json()["usage"]["prompt_tokens"]
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 0
        told = program.stderr.read()
        assert "0.0.0.0 can be reached by others, who need no key" in told


@pytest.mark.slow
def test_a_model_directory_of_hugging_face_s_is_served_and_says_what_transformers_says(
    run_dir, tmp_path
):
    convert = [sys.executable, ROOT / "launch" / "convert.py", "to-hf", run_dir, tmp_path / "hf"]
    subprocess.run([*map(str, convert), "--dtype", "float32"], check=True, stdout=subprocess.PIPE)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    given = tokenizer("むかし", return_tensors="pt")
    wanted = theirs.generate(**given, do_sample=False, max_new_tokens=8)[
        0, given.input_ids.size(1) :
    ]
    with serving(tmp_path / "hf", "--dtype", "float32") as (program, url):
        (model,) = httpx.get(f"{url}/v1/models").json()["data"]
        assert model["id"] == "hf"
        asked = ASKED | {"max_tokens": 8, "stream": False, "model": "hf"}
        answer = httpx.post(f"{url}/v1/completions", json=asked, timeout=120).json()
        chat = {"messages": [{"role": "user", "content": "山"}], "max_tokens": 3}
        said = httpx.post(f"{url}/v1/chat/completions", json=chat, timeout=120).json()
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 0
    assert answer["usage"]["prompt_tokens"] == given.input_ids.size(1)
    assert answer["choices"][0]["text"].lstrip() == tokenizer.decode(wanted, True).lstrip()
    assert said["usage"]["completion_tokens"] > 0


@pytest.fixture
def serve(monkeypatch):
    """Run the program in this process, where it is not expected to get as far as to answer."""
    monkeypatch.syspath_prepend(ROOT / "launch")
    program = importlib.import_module("serve")

    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["serve.py", *map(str, arguments)])
        program.main()

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is no directory"),
        (["RUN", "--port", "-1"], "--port is -1, but it must be from 0 to 65535"),
        (["RUN", "--api-key", ""], "--api-key is empty"),
        (["RUN", "--mesh.pipeline", "2"], "Serving is shared by --mesh.tensor alone"),
        (["RUN", "--limits.concurrent", "0"], "limits.concurrent is 0, but it must be"),
        (["RUN", "--chat-template", "absent"], "chat template absent: cannot be read"),
        (["RUN", "--slots", "0"], "slots is 0, but it must be at least 1"),
    ],
)
def test_wrong_arguments_are_one_sentence(serve, run_dir, arguments, message):
    given = [run_dir if argument == "RUN" else argument for argument in arguments]
    port = [] if "--port" in given else ["--port", 0]
    with pytest.raises(InputError) as error:
        serve(*given, *port)
    assert message in str(error.value)


def test_without_what_a_server_needs_it_is_said_what_to_install(serve, run_dir, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("fugaku_jax.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    package = importlib.import_module("fugaku_jax.serving")
    for name in ("app", "engine_thread", "metrics", "server", "service"):
        monkeypatch.delattr(package, name, raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(InputError, match=r"fastapi.* not installed; `pip install '\.\[serve\]'`"):
        serve(run_dir)


def test_why_nothing_can_be_traced_is_told_to_who_serves_and_not_to_clients(
    monkeypatch, run_dir, tmp_path, capsys
):
    monkeypatch.syspath_prepend(ROOT / "launch")
    program = importlib.import_module("serve")
    tracer = program.tracer_of(run_dir, tmp_path, None)
    assert tracer == program.NO_TRACE
    assert "Nothing can be traced: " in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    assert program.tracer_of(tmp_path, None, None) == program.NO_TRACE
    found = program.tracer_of(run_dir, run_dir.parent / "index", None)
    assert isinstance(found, functools.partial)
    assert found("むかし").text == "むかし"
