"""Every recipe is a promise: its real step compiles for its own mesh, and steps like it are right.

A recipe that is added to `configs/` is held to all of this.
"""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fugaku_jax.collectives.phases import LARGEST_GROUP
from fugaku_jax.config import Config
from fugaku_jax.planning.compile import CompiledStep, compile_emulated
from fugaku_jax.planning.mesh_plan import plan_run
from fugaku_jax.training.recipe_optimizer import optimizer_of_recipe

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("recipe_steps.py")
ORIGINAL = "fugaku_llm_13b"
FEW = 1200
"""Devices at most where the machine's are too many for a test."""


def with_replicas(config: Config, data: int) -> Config:
    """The run on fewer replicas, each with the rows it had; the machine is no torus then."""
    batch = config.training.batch_size // plan_run(config).degrees["data"] * data
    return replace(
        config,
        mesh=replace(config.mesh, data=data, shape=""),
        training=replace(config.training, batch_size=batch),
    )


def on_few_devices(config: Config) -> Config:
    """The run as it is, or on as many of its replicas as there are devices for."""
    degrees = plan_run(config).degrees
    if math.prod(degrees.values()) <= FEW:
        return config
    others = math.prod(degrees.values()) // degrees["data"]
    ways = [n for n in range(1, FEW // others + 1) if degrees["data"] % n == 0]
    return with_replicas(config, max(ways))


def compile_as_in_a_run(configs: list[Config], recipe: Path) -> list[CompiledStep]:
    """Compile with the emitters that `conftest.py` leaves out: memory may depend on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} --xla_cpu_use_fusion_emitters=true")
        return compile_emulated(configs, [recipe] * len(configs))


@pytest.fixture(scope="module")
def own(recipes, tmp_path_factory) -> tuple[Config, Path]:
    """A run by an optimizer that its recipe builds, and the recipe's file."""
    path = tmp_path_factory.mktemp("configs") / "own.py"
    path.write_text("import optax\n\n\ndef optimizer(config):\n    return optax.nadam(0.1)\n")
    tiny = shrunken(recipes["tiny"])
    return replace(tiny, optimizer=replace(tiny.optimizer, kind="recipe")), path


@pytest.fixture(scope="module")
def compiled(recipes, own) -> dict[str, CompiledStep]:
    """The steps of all recipes, and of a run by an optimizer of a recipe's own."""
    runs = {name: on_few_devices(config) for name, config in recipes.items()}
    original = runs[ORIGINAL]
    runs["half the replicas"] = with_replicas(original, original.mesh.data // 2)
    shared = replace(original.mesh, sequence_parallel=True)
    runs["shared positions"] = replace(original, mesh=shared)
    runs["own"], recipe = own
    return dict(zip(runs, compile_as_in_a_run(list(runs.values()), recipe), strict=True))


def test_the_step_of_every_recipe_compiles_for_its_mesh(recipes, own, compiled):
    its_own, path = own
    few = {name: on_few_devices(config) for name, config in recipes.items()} | {"own": its_own}
    for name, config in (recipes | {"own": its_own}).items():
        planned = plan_run(config, built=optimizer_of_recipe(path, config))
        step = compiled[name]
        assert step.parameters == planned.parameters
        assert step.tokens == few[name].total_tokens
        assert step.temporary_bytes > 0
        # A few counters and the tokens of a replica come to weights and moments.
        state = planned.parameter_bytes + planned.optimizer_bytes
        rows = config.training.batch_size // planned.degrees["data"]
        tokens = 4 * rows * (config.model.sequence_length + 1)
        assert step.argument_bytes == pytest.approx(state + tokens, abs=64)
        for narrow, wide in step.learning_rates.values():
            assert narrow == pytest.approx(wide, rel=1e-6)
    assert compiled[ORIGINAL].devices == 1152


def test_no_collective_of_a_step_joins_more_devices_than_a_group_may_have(compiled):
    for name, step in compiled.items():
        assert step.largest_group <= LARGEST_GROUP, name
    # Two stages or more than one tensor group do meet, or the figure would say nothing.
    assert compiled[ORIGINAL].largest_group == 24


@pytest.mark.parametrize("name", ["fugaku_llm_13b", "shared positions"])
def test_what_crosses_stages_crosses_two_of_them_but_for_numbers(recipes, compiled, name):
    stages = set(plan_run(on_few_devices(recipes[ORIGINAL])).assignment.axes("pipeline"))
    crossing = [row for row in compiled[name].collectives if stages & set(row.axes)]
    assert {row.members for row in crossing if row.bytes > 64} == {2}
    # In fp32 the table of words, of which a tensor device has a sixth, that of positions, and the
    # norm's scale and bias; XLA makes one sum of them.
    model = recipes[ORIGINAL].model
    rows = model.padded_vocab_size // plan_run(recipes[ORIGINAL]).degrees["tensor"]
    shared = 4 * model.d_model * (rows + model.sequence_length + 2)
    assert shared in {row.bytes for row in crossing if row.kind == "all-reduce"}


def test_a_device_of_the_original_needs_no_more_for_more_replicas(compiled):
    # A sum over replicas is padded to a multiple of them, some numbers a weight.
    half, all_of_them = (compiled[name] for name in ("half the replicas", ORIGINAL))
    assert half.devices * 2 == all_of_them.devices
    assert all_of_them.temporary_bytes == pytest.approx(half.temporary_bytes, rel=1e-4)


def test_shared_positions_take_less_than_half_of_the_temporaries(compiled):
    shared, whole = (compiled[name] for name in ("shared positions", ORIGINAL))
    assert shared.argument_bytes == whole.argument_bytes
    assert shared.temporary_bytes < whole.temporary_bytes / 2


@pytest.mark.machine
def test_the_step_of_the_original_compiles_for_the_whole_machine(recipes):
    config = recipes[ORIGINAL]
    runs = config, on_few_devices(config)
    whole, few = (compile_as_in_a_run([run], Path())[0] for run in runs)
    assert whole.devices == 13_824
    assert few.largest_group == whole.largest_group == 24
    # Sums over 288 are padded, those over 24 are not.
    assert whole.temporary_bytes == pytest.approx(few.temporary_bytes, rel=1e-4)
    assert whole.argument_bytes == few.argument_bytes


def shrunken(config: Config) -> Config:
    """A run of the same kinds of everything on 8 devices or 16, its schedule shrunk with it."""
    model, mesh, training, optimizer = config.model, config.mesh, config.training, config.optimizer
    pipeline = min(mesh.pipeline, 2)
    micro_batches = min(training.micro_batches, 3)
    small = replace(
        config,
        model=replace(
            model,
            vocab_size=50,
            d_model=16,
            n_heads=4,
            sequence_length=16,
            d_ff=None,
            n_layers=max(pipeline * mesh.chunks, 2),
            n_kv_heads=model.n_kv_heads and 2,
            vocab_multiple=min(model.vocab_multiple, 8),
        ),
        mesh=replace(
            mesh,
            data=2,
            shape="",
            local=1,
            layers=(),
            pipeline=pipeline,
            tensor=min(mesh.tensor, 2),
            context=min(mesh.context, 2),
            recompute_stages=mesh.recompute_stages * pipeline // mesh.pipeline,
        ),
        training=replace(training, batch_size=2 * micro_batches, micro_batches=micro_batches),
    )
    share = small.tokens_per_step / config.tokens_per_step
    decay = optimizer.decay_tokens
    return replace(
        small,
        optimizer=replace(
            optimizer,
            warmup_tokens=round(optimizer.warmup_tokens * share),
            decay_tokens=decay and round(decay * share),
        ),
    )


@pytest.fixture(scope="module")
def steps(recipes, tmp_path_factory, run_emulated) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Losses and norms of the recipes' first steps, on many devices and on one."""
    out = tmp_path_factory.mktemp("recipes") / "steps.json"
    configs = {name: shrunken(config).to_dict() for name, config in recipes.items()}
    run_emulated(PROGRAM, 16, out, json.dumps(configs))
    return json.loads(out.read_text())


def test_steps_of_every_recipe_are_those_of_one_device(recipes, steps):
    # Sums are taken in another order: some roundings, of the format that is multiplied.
    tolerances = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 3e-3}
    for name, config in recipes.items():
        tolerance = tolerances[config.training.precision]
        for figure in ("losses", "norms"):
            many, one = steps[name]["many"][figure], steps[name]["one"][figure]
            assert np.isfinite(many).all()
            np.testing.assert_allclose(many, one, rtol=tolerance, err_msg=f"{name}, {figure}")
