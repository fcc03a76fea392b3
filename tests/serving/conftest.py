"""A server of a run that has just begun, in a thread of this process, and its official client."""

import dataclasses
import itertools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest
import uvicorn

from fugaku_jax.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainingConfig
from fugaku_jax.data import builtin
from fugaku_jax.data.build import build_store
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import train
from fugaku_jax.inference.engine import Engine
from fugaku_jax.interop.load import load_for_inference
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.identity import claim_run_dir, run_identity
from fugaku_jax.serving.app import make_app
from fugaku_jax.serving.engine_thread import EngineThread
from fugaku_jax.serving.limits import Limits
from fugaku_jax.serving.metrics import Metrics
from fugaku_jax.serving.server import listen
from fugaku_jax.serving.service import Service
from fugaku_jax.tracing.matches import traced_text
from fugaku_jax.tracing.text_index import TextIndex, build_index
from fugaku_jax.tracing.traced_run import TracedRun
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.state import init_state
from fugaku_jax.tuning.chat_template import ChatTemplate

VOCAB = 900
POSITIONS = 512
KEY = "a secret"


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory) -> Path:
    """A run with untrained weights, saved at step 1, and the store that it would learn from."""
    folder = tmp_path_factory.mktemp("serving")
    documents = list(itertools.islice(builtin.documents("ja"), 60))
    (folder / "ja.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    tokenizer = train([each["text"] for each in documents], VOCAB)
    sets = [InputSet("ja", (folder / "ja.jsonl",), "ja", 1.0)]
    build_store(str(folder / "store"), sets, tokenizer, validation=0.05)
    config = Config(
        model=ModelConfig(
            vocab_size=VOCAB, n_layers=1, d_model=32, n_heads=2, sequence_length=POSITIONS
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        training=TrainingConfig(steps=4, batch_size=2),
        data=DataConfig(store=str(folder / "store")),
    )
    run = folder / "small"
    store = Store.open(config.data.store)
    claim_run_dir(run, config, store, run_identity(config, store))
    with RunCheckpoints(run, config.checkpoint) as checkpoints:
        layout = make_layout(config)
        checkpoints.save(1, layout, init_state(layout), {"config": config.to_dict()})
    return run


@pytest.fixture(scope="session")
def traced(run_dir, tmp_path_factory) -> tuple[TracedRun, TextIndex]:
    """The run, and an index of its store."""
    run, folder = TracedRun(run_dir), tmp_path_factory.mktemp("index")
    build_index(run.store, folder)
    return run, TextIndex(folder, run.store)


@pytest.fixture(scope="session")
def engine(run_dir) -> Engine:
    """An engine of four slots."""
    loaded = load_for_inference(run_dir, "float32")
    return Engine(loaded.model, loaded.tokenizer, loaded.first_token, "float32", 4, 64)


@pytest.fixture(scope="session")
def start(engine, traced):
    """Start a server of the engine; end it with the returned context's exit."""
    ended: list[Callable[[], None]] = []

    def begin(api_key: str | None = None, traces: bool = True, **limits: float) -> SimpleNamespace:
        kept = dataclasses.replace(Limits(concurrent=32), **limits)
        thread = EngineThread(engine, kept.concurrent).__enter__()
        service = Service(
            name="small",
            thread=thread,
            template=ChatTemplate(),
            limits=kept,
            tracer=(lambda text: traced_text(*traced, text)) if traces else "Nothing is traced.",
            metrics=Metrics(thread),
        )
        app = make_app(service, api_key)
        listening = listen("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        serving.start()

        def end() -> None:
            server.should_exit = True
            serving.join()
            thread.__exit__()

        ended.append(end)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        return SimpleNamespace(url=url, service=service, app=app, end=end)

    yield begin
    for end in ended:
        end()


@pytest.fixture(scope="session")
def server(start) -> SimpleNamespace:
    """A server that anybody may use."""
    return start()


@pytest.fixture(scope="session")
def client(server) -> openai.OpenAI:
    """OpenAI's client, which tries once."""
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120)
