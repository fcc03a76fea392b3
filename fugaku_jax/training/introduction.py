"""What a session is about to do, said before its first step."""

import math
from collections.abc import Iterator

import jax

from fugaku_jax.data.store import Store
from fugaku_jax.layout.layout import Layout
from fugaku_jax.layout.mesh import describe_mesh
from fugaku_jax.models.size import parameter_count
from fugaku_jax.pipeline.duration import bubble
from fugaku_jax.run.identity import Start
from fugaku_jax.spelling import amount
from fugaku_jax.training.doubts import doubts
from fugaku_jax.training.throughput import Peak


def introduction(
    layout: Layout, store: Store, peak: Peak, first: int, start: Start | None
) -> Iterator[str]:
    """Yield line after line.

    Args:
        layout: the run on its mesh.
        store: what it reads.
        peak: what its processors can do at most.
        first: steps taken before.
        start: the weights that the run starts from, if they were not random.
    """
    config, devices = layout.config, jax.device_count()
    yield (
        f"{amount(parameter_count(config.model))} parameters, "
        f"{amount(config.tokens_per_step)} tokens a step, {config.training.steps} steps, "
        f"{config.training.precision} on {devices} {jax.default_backend()} device"
        f"{'s' if devices > 1 else ''}"
    )
    if layout.is_lora:
        learned = sum(math.prod(x.shape) for x in jax.tree.leaves(layout.adapter_shapes))
        yield f"  LoRA of rank {config.tuning.rank}: {amount(learned)} parameters are learned"
    yield f"  peak {peak.flops / 1e9:,.0f} GFLOP/s ({peak.of}, measured)"
    if devices > 1:
        yield f"  mesh: {describe_mesh(layout.mesh, layout.rules)}"
    if layout.rules.pipeline:
        schedule, _ = layout.pipeline
        yield f"  pipeline: {schedule.kind}, bubble {bubble(schedule):.1%} (modelled)"
    for each in store.sets:
        yield f"  {each.name} ({each.domain}): {amount(each.train.tokens)} tokens"
    if first:
        yield f"going on after step {first}"
    for doubt in doubts(store.tokenizer(), start):
        yield f"warning: {doubt}"
