"""Flip bits in a state on four emulated devices, and print what the hooks say of it, as JSON."""

import json
import sys
from dataclasses import replace

import jax
import numpy as np
from first_steps import lay_out, start_from
from meshes import make_config

from fugaku_jax.errors import RunError
from fugaku_jax.training.hooks.flipped_bits import Again, Replicas
from fugaku_jax.training.hooks.hook import CompletedStep
from fugaku_jax.training.state import init_state
from fugaku_jax.training.step import make_train_step

MESHES = {
    "data": ({"data": 4}, 2),
    "zero1": ({"data": 2, "tensor": 2, "weights": "zero1"}, 2),
    "pipeline": ({"data": 2, "pipeline": 2}, 2),
    "stages alone": ({"data": 1, "pipeline": 4}, 3),
}
"""Meshes, and the device on which a bit flips."""


def flipped(array, which):
    """Return an array of which one device holds another bit."""
    shards = [np.array(shard.data) for shard in array.addressable_shards]
    shards[which].view(np.uint32).flat[0] ^= 1 << 7
    placed = [
        jax.device_put(data, shard.device)
        for data, shard in zip(shards, array.addressable_shards, strict=True)
    ]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding, placed)


def said(hook, number, state, batch):
    """Return what a hook says of a step; nothing if it lets it pass."""
    done = CompletedStep(number, batch, {}, {}, 1.0, is_last=False, state=state)
    try:
        hook.after_step(done)
    except RunError as error:
        return str(error)
    return ""


def main():
    """Print what is said of whole and of damaged states on each mesh."""
    found = {}
    parameters = jax.device_get(init_state(lay_out(make_config({}, {}, {}))).parameters)
    for name, (mesh, device) in MESHES.items():
        layout = lay_out(make_config(mesh, {}, {"micro_batches": 2}))
        with layout.active():
            step, state = make_train_step(layout), start_from(layout, parameters)
            tokens = np.random.default_rng(0).integers(0, 250, layout.batch.tokens.shape, np.int32)
            batch = jax.device_put(replace(layout.batch, tokens=tokens), layout.rows)
            state, _ = step(state, batch)
            replicas, again = (
                Replicas(1, lambda: "safe", layout.rules.pipeline),
                Again(2, step, lambda: "safe"),
            )
            whole = [said(replicas, 1, state, batch), said(again, 1, state, batch)]
            state, _ = step(state, batch)
            whole += [said(replicas, 2, state, batch), said(again, 2, state, batch)]
            scale = state.parameters["norm"]["scale"]
            damaged = state.parameters | {
                "norm": {**state.parameters["norm"], "scale": flipped(scale, device)}
            }
            bad = replace(state, parameters=damaged)
            # Taken again from what is whole, the step gives other bits than the damaged one.
            said(again, 1, state, batch)
            state_after, _ = step(jax.tree.map(jax.numpy.copy, state), batch)
            wrong = replace(state_after, parameters=damaged)
            found[name] = [whole, said(replicas, 2, bad, batch), said(again, 2, wrong, batch)]
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
