"""Serve a trained model: OpenAI's API, and a page to talk on. See `docs/serving.md`.

python launch/serve.py runs/tiny
python launch/serve.py models/tiny --port 9000 --api-key "$KEY" --host 0.0.0.0
"""

import functools
import sys
from pathlib import Path
from typing import Annotated, Literal

from fugaku_jax.huge_pages import use_huge_pages

if __name__ == "__main__":  # here, so that what follows is imported only once
    use_huge_pages()

import tyro
from command import parse, run_program
from suffix_index import index_of

from fugaku_jax.cluster.devices import emulate
from fugaku_jax.compile_cache import use_compile_cache
from fugaku_jax.config import MeshConfig
from fugaku_jax.errors import InputError
from fugaku_jax.inference.engine import Engine
from fugaku_jax.interop.base import open_base
from fugaku_jax.interop.hf_shape import is_hf_directory
from fugaku_jax.interop.load import load_for_inference
from fugaku_jax.serving.limits import Limits
from fugaku_jax.tracing.matches import traced_text
from fugaku_jax.tracing.traced_run import TracedRun
from fugaku_jax.tuning.chat_template import FUGAKU, ChatTemplate
from fugaku_jax.tuning.data_of_run import read_template

Model = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN_OR_HF_DIR")]]
MOST_INDEXED = 50_000_000
"""Tokens of a store whose index is made on starting, if there is none: a minute's work."""
NO_TRACE = "Tracing needs a run with its store and an index of it; the server's log says more."


def serve(
    model: Model,
    port: int = 8000,
    host: str = "127.0.0.1",
    api_key: str | None = None,
    slots: int = 16,
    dtype: Literal["bfloat16", "float32", "float16"] = "bfloat16",
    weights: Literal["int8"] | None = None,
    chat_template: Path | None = None,
    index: Path | None = None,
    store: str | None = None,
    emulate_devices: int | None = None,
    limits: Limits = Limits(),  # noqa: B008
    mesh: MeshConfig = MeshConfig(),  # noqa: B008
) -> None:
    """Answer requests until told to end; then give the answers that have begun.

    Args:
        model: Run directory, whose newest checkpoint is taken, or a model directory of Hugging
            Face's.
        port: 0 for any that is free.
        host: Address to listen at; the default is reached from this machine alone.
        api_key: What requests must carry, as OpenAI's clients send it; none without it.
        slots: Texts that are continued at once.
        dtype: Type of weights, cache and arithmetic.
        weights: Type of weights in products, if it is another: int8 is half of what bf16 reads.
        chat_template: A Jinja file of how a dialogue is told; else the one that came with the
            model, else Fugaku-LLM's.
        index: Folder of an index of the run's store, made by `data.py index`; one in your cache
            if not given.
        store: Folder or URL of the run's store, if it is no longer where the run found it.
        emulate_devices: Let this process have so many devices, by emulation on its CPU.
        limits: What is taken at most.
        mesh: How many devices share the work, and how.
    """
    try:
        from fugaku_jax.serving import app, engine_thread, metrics, server, service
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed; `pip install '.[serve]'` brings what a server needs."
        ) from error
    if api_key == "":
        raise InputError("--api-key is empty; leave it out to take requests without one.")
    if mesh.pipeline != 1 or mesh.context != 1:
        raise InputError("Serving is shared by --mesh.tensor alone.")
    emulate(emulate_devices)
    use_compile_cache()
    listening = server.listen(host, port)
    if api_key is None and not server.is_loopback(listening):
        say(f"{host} can be reached by others, who need no key; --api-key KEY has them need one.")
    template = read_template(chat_template) if chat_template else open_base(model).template
    loaded = load_for_inference(model, dtype, mesh)
    made = loaded.model, loaded.tokenizer, loaded.first_token
    engine = Engine(*made, dtype, slots, queue=limits.concurrent, weights=weights)
    del loaded, made
    engine.prepare()
    with engine_thread.EngineThread(engine, limits.concurrent) as thread:
        served = service.Service(
            name=model.resolve().name,
            thread=thread,
            template=ChatTemplate(FUGAKU if template is None else template),
            limits=limits,
            tracer=tracer_of(model, index, store),
            metrics=metrics.Metrics(thread),
        )
        server.serve(app.make_app(served, api_key), listening, limits.drain_seconds)


def tracer_of(model: Path, index: Path | None, store: str | None):
    """Return what finds texts in the training data, or a sentence for clients if nothing does."""
    if is_hf_directory(model):
        return NO_TRACE
    try:
        run = TracedRun(model, store)
        return functools.partial(traced_text, run, index_of(run.store, index, MOST_INDEXED))
    except InputError as error:
        say(f"Nothing can be traced: {error}")
        return NO_TRACE


def say(sentence: str) -> None:
    """Tell whoever runs the server."""
    print(sentence, file=sys.stderr, flush=True)


def main() -> None:
    """Read the arguments and serve."""
    parse(serve, description=__doc__)


if __name__ == "__main__":
    run_program(main)
