"""Generate on several meshes of emulated devices, for `test_generate.py`; print JSON.

The numbers of devices are fixed when JAX starts, hence a process of its own.
"""

import json

import jax
import jax.numpy as jnp
from conftest import TEXTS

from fugaku_jax.config import MeshConfig, ModelConfig
from fugaku_jax.data.tokenizer import Tokenizer, train
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import Engine
from fugaku_jax.layout.mesh import active, make_mesh
from fugaku_jax.models.gpt import GPT

GPT2 = {"vocab_size": 303, "n_layers": 2, "d_model": 24, "n_heads": 4, "sequence_length": 64}
LLAMA = GPT2 | {"family": "llama", "n_kv_heads": 2, "d_model": 32, "tied": False}
MODELS = {"gpt2": GPT2, "llama": LLAMA}
MESHES = {
    "gpt2": ({"data": 1}, {"data": 2, "tensor": 2}),
    "llama": (
        {"data": 1},
        {"data": 1, "tensor": 2, "pipeline": 2},
        {"data": 1, "tensor": 2, "context": 2, "sequence_parallel": True},
    ),
}
OPTIONS = [Options(12, temperature=n / 4, seed=n, repetition_penalty=1 + n / 5) for n in range(5)]
PROMPTS = ["", "the rain", "むかし", "x = 1", "the plain stays mainly"]


def make(mesh: dict, model: dict) -> GPT:
    """Make a model that lies whole along all but the tensor axes."""
    config = MeshConfig(**mesh)
    devices = config.data * config.tensor * config.pipeline * config.context
    mesh, rules = make_mesh(MeshConfig(**mesh), jax.devices()[:devices])
    shape = ModelConfig(**model, init_std=0.3)
    with active(mesh):
        return jax.jit(lambda: GPT(shape, jax.random.key(0), rules.without_stages()))()


def answer(mesh: dict, model: dict, tokenizer: Tokenizer) -> dict[str, list]:
    """Continue the prompts, three at a time, with a common beginning; one is cancelled."""
    engine = Engine(make(mesh, model), tokenizer, 2, jnp.float32, slots=3)
    tokens = [engine.tokens(PROMPTS[-1] + prompt) for prompt in PROMPTS]
    rows = [engine.submit(*each) for each in zip(tokens, OPTIONS, strict=True)]
    engine.step()
    engine.cancel(rows.pop(1))
    while engine.busy:
        engine.step()
    assert engine.pool.free == engine.pool.blocks
    found = [row.continuation for row in rows]
    return {"tokens": [row.tokens for row in found], "log_probs": [row.log_probs for row in found]}


def judge(mesh: dict, model: dict, tokenizer: Tokenizer) -> list[float]:
    """Say how probable a text is, by weights of int8."""
    engine = Engine(make(mesh, model), tokenizer, 2, jnp.float32, slots=1, weights="int8")
    return engine.score(engine.tokens("the rain in Spain"))[0]


def main() -> None:
    """Run every family on every mesh."""
    tokenizer = train(TEXTS * 9, 303)
    found = {
        name: [answer(mesh, model, tokenizer) for mesh in MESHES[name]]
        for name, model in MODELS.items()
    }
    found["int8"] = [judge(mesh, LLAMA, tokenizer) for mesh in MESHES["gpt2"]]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
