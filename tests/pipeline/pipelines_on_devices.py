"""Gradients of a small model by every pipeline schedule and by autodiff of a plain pipeline.

Run by `test_pipeline.py`, since the number of emulated devices is fixed when JAX starts:
`python pipelines_on_devices.py OUT.npz` saves, under `CASE/`, the loss and the gradients of each,
the layers in their order; and under `swapped/STAGES/TYPE` what neighbours sent each other. As in a
run, an axis that is not of the stages is left Explicit.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from fugaku_jax.config import MeshConfig
from fugaku_jax.layout.stages import make_stages
from fugaku_jax.pipeline.executor import Executor
from fugaku_jax.pipeline.neighbours import swap_messages
from fugaku_jax.pipeline.schedule import make_schedule
from fugaku_jax.pipeline.slots import plan_slots
from fugaku_jax.pipeline.stage_program import StageProgram

WIDTH, VOCABULARY, SCALE = 6, 11, 0.5
TYPES = ("float32", "bfloat16", "float16")
# Kind, stages, micro-batches, chunks, layers, stages that recompute, type of the stream.
CASES = {
    "gpipe": ("gpipe", 2, 4, 1, 4, 0, "float32"),
    "1f1b": ("1f1b", 2, 4, 1, 4, 0, "float32"),
    "1f1b, one micro-batch, four layers on three stages": ("1f1b", 3, 1, 1, 4, 1, "float32"),
    "1f1b, three stages, bf16": ("1f1b", 3, 4, 1, 4, 0, "bfloat16"),
    "1f1b, four stages, all recomputing": ("1f1b", 4, 6, 1, 6, 4, "float32"),
    "interleaved": ("interleaved", 2, 4, 2, 4, 0, "float32"),
    "interleaved, three stages, a recomputing one": ("interleaved", 3, 6, 2, 6, 1, "float32"),
    "zero bubble": ("zero_bubble", 2, 4, 1, 4, 0, "float32"),
    "zero bubble, one micro-batch": ("zero_bubble", 4, 1, 1, 4, 0, "float32"),
    "zero bubble, three stages, a recomputing one": ("zero_bubble", 3, 4, 1, 6, 1, "float32"),
    "zero bubble, six layers on four stages": ("zero_bubble", 4, 6, 1, 6, 0, "float32"),
}
ORACLES_STAGES = 2
"""The oracle's; the model is the same on any number."""


def parameters(layers: int) -> tuple[dict, dict, np.ndarray]:
    """Return the layers' weights, the shared ones and the tokens of six micro-batches."""
    random = np.random.default_rng(0)

    def normal(*shape):
        return random.normal(0, 0.5, shape).astype(np.float32)

    weights = {
        "up": normal(layers, WIDTH, 2 * WIDTH),
        "bias": normal(layers, 2 * WIDTH),
        "down": normal(layers, 2 * WIDTH, WIDTH),
    }
    shared = {"table": normal(VOCABULARY, WIDTH), "norm": normal(WIDTH)}
    return weights, shared, random.integers(0, VOCABULARY, (6, 2, 4), np.int32)


def layer(x, weights, given):
    number, mask = given
    up, bias, down = (weights[name].astype(x.dtype) for name in ("up", "bias", "down"))
    hidden = jnp.tanh(x @ up + bias) * mask.astype(x.dtype)
    return x + hidden @ down / (2.0 + number).astype(x.dtype)


def mask(m):
    return 1 + 0.1 * jnp.float32(m) * jnp.arange(2 * WIDTH)


def embed(shared, tokens, dtype):
    return shared["table"][tokens[:, :-1]].astype(dtype)


def loss(shared, y, tokens):
    logits = (y * shared["norm"]) @ shared["table"].T
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1).sum()


def by_autodiff(stages, micro_batches, layers, dtype):
    """Return loss and gradients of GPipe as one differentiates it: a scan and a `ppermute`."""
    weights, shared, all_tokens = parameters(layers)
    assert layers % stages == 0

    def per_stage(weights, shared):
        stage, tokens = jax.lax.axis_index("a"), jnp.asarray(all_tokens)
        numbers = stage * (layers // stages) + jnp.arange(layers // stages)

        def tick(arrived, t):
            m = jnp.clip(t - stage, 0, micro_batches - 1)
            x = jnp.where(stage == 0, embed(shared, tokens[m], dtype), arrived)
            y, _ = jax.lax.scan(
                lambda x, one: (layer(x, one[0], (one[1], mask(m))), None), x, (weights, numbers)
            )
            counts = (stage == stages - 1) & (t - stage >= 0)
            value = jnp.where(counts, loss(shared, y, tokens[m]), 0.0)
            there = [(s, s + 1) for s in range(stages - 1)]
            return jax.lax.ppermute(y, "a", there), value

        start = jnp.zeros((2, 3, WIDTH), dtype)
        _, values = jax.lax.scan(tick, start, jnp.arange(micro_batches + stages - 1))
        return values.sum()[None]

    spec = PartitionSpec("a")
    run = jax.shard_map(
        per_stage,
        in_specs=(spec, PartitionSpec()),
        out_specs=spec,
        axis_names={"a"},
        check_vma=False,
    )

    def total(weights, shared):
        return run(weights, shared).sum()

    value, gradients = jax.jit(jax.value_and_grad(total, (0, 1)))(place(weights), shared)
    return value, jax.tree.map(lambda g: SCALE * g, gradients)


class Program(StageProgram):
    """The model above, cut up."""

    def __init__(self, tokens, dtype):
        super().__init__(layer)
        self.tokens, self.dtype = jnp.asarray(tokens), dtype

    def inputs(self, m):
        return mask(m)

    def embed(self, shared, m):
        return embed(shared, self.tokens[m], self.dtype)

    def loss(self, shared, y, m):
        return loss(shared, y, self.tokens[m]), None


def by_schedule(kind, stages, micro_batches, chunks, layers, recomputing, dtype):
    """Return loss and gradients by the executor."""
    weights, shared, tokens = parameters(layers)
    config = MeshConfig(pipeline=stages, chunks=chunks, schedule=kind)
    held = make_stages(layers, config, stages)
    schedule = make_schedule(kind, stages, micro_batches, chunks)
    plan = plan_slots(schedule, tuple(stage < recomputing for stage in range(stages)))

    def per_stage(weights, shared):
        scale = jnp.float32(SCALE)
        stages = Program(tokens, dtype)
        done = Executor(stages, schedule, plan, weights, shared, held.layers, ("a",), scale).run()
        return done.loss[None], done.d_weights, jax.tree.map(lambda g: g[None], done.d_shared)

    spec = PartitionSpec("a")
    run = jax.jit(
        jax.shard_map(
            per_stage,
            in_specs=(spec, PartitionSpec()),
            out_specs=spec,
            axis_names={"a"},
            check_vma=False,
        )
    )
    stored = jax.tree.map(lambda w: np.asarray(held.store(jnp.asarray(w))), weights)
    losses, d_weights, d_shared = run(place(stored), shared)
    d_weights = jax.tree.map(lambda g: held.restore(jnp.asarray(np.asarray(g))), d_weights)
    return losses.sum(), (d_weights, jax.tree.map(lambda g: g.sum(0), d_shared))


def swapped(stages):
    """Return, by type, what the first two stages sent each other, and what these received."""
    sent = np.random.default_rng(0).normal(size=(stages, 5)).astype(np.float32)
    sent[:, 1:4] = -0.0, np.inf, np.nan

    def per_stage(messages):
        return {name: swap_messages(x[0], [0], stages, ("a",))[0][None] for name, x in messages}

    spec = PartitionSpec("a")
    run = jax.jit(
        jax.shard_map(
            lambda messages: per_stage(messages.items()),
            in_specs=spec,
            out_specs=spec,
            axis_names={"a"},
            check_vma=False,
        )
    )
    messages = place({name: sent.astype(jnp.dtype(name)) for name in TYPES})
    received = run(messages)
    return {name: [np.asarray(x[name])[:2] for x in (messages, received)] for name in TYPES}


def place(weights):
    return jax.device_put(weights, PartitionSpec("a"))


def main() -> None:
    """Run every case and its oracle."""
    saved = {}

    def save(name, found):
        value, (d_weights, d_shared) = found
        saved[f"{name}/loss"] = value
        for key, gradient in (d_weights | d_shared).items():
            saved[f"{name}/{key}"] = np.asarray(gradient)

    def set_stages(count):
        devices = jax.devices()[:count]
        axis_types = (AxisType.Explicit,) * 2
        jax.set_mesh(jax.make_mesh((count, 1), ("a", "b"), axis_types, devices=devices))

    @functools.cache
    def oracle(micro_batches, layers, dtype):
        set_stages(ORACLES_STAGES)
        return by_autodiff(ORACLES_STAGES, micro_batches, layers, dtype)

    for name, case in CASES.items():
        _, stages, micro_batches, _, layers, _, dtype = case
        save(f"{name}/oracle", oracle(micro_batches, layers, dtype))
        set_stages(stages)
        save(f"{name}/executor", by_schedule(*case))
    for stages in (2, 3, 4):
        set_stages(stages)
        for name, (sent, received) in swapped(stages).items():
            # As bits, which NumPy can save in every type.
            saved[f"swapped/{stages}/{name}"] = np.stack([sent, received]).view(np.uint8)
    np.savez(sys.argv[1], **saved)


if __name__ == "__main__":
    main()
