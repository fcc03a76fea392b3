"""Checkpoints of a run: saved in the background, complete or absent, restored onto any layout.

A checkpoint holds the arrays of `TrainState`: parameters, moments, loss scale, and the step, which
is also the position in the data and the seed of dropout (batch = f(step)). Beside them stands
what the numbers mean: the configuration and the hash of the store. That of step 0, which only an
imported run has and one that learns adapters, holds a model's weights alone. Of the latter run it
is kept, as its other checkpoints hold the adapters and no weights.
"""

import contextlib
import functools
import logging
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from jax.typing import DTypeLike
from jaxtyping import Array, PyTree, Shaped

from fugaku_jax.cluster.decisions import anywhere, wait_for_all
from fugaku_jax.config import CheckpointConfig, Config, MeshConfig
from fugaku_jax.errors import InputError, RunError
from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.gpt import GPT
from fugaku_jax.models.layout import layout_for_use
from fugaku_jax.run.checkpoint_folder import (
    CHECKPOINTS,
    LiteralPath,
    checkpoint_folder,
    named_steps,
    saved_steps,
    set_aside,
    what_is_safe,
)
from fugaku_jax.run.configuration import read_config
from fugaku_jax.training.checkpoint_reading import (
    FORMAT,
    IDENTITY,
    STATE,
    DamagedCheckpoint,
    check_format,
    load,
    names,
    reason,
    saved_names,
)
from fugaku_jax.training.optimizer import Optimizer, make_optimizer
from fugaku_jax.training.saving_options import kept_checkpoints, saving_options
from fugaku_jax.training.state import TrainState, first_memory, fresh_state
from fugaku_jax.training.storage_order import (
    frozen_in_layer_order,
    in_layer_order,
    in_storage_order,
    saved_types,
)
from fugaku_jax.training.weights_of_checkpoint import load_weights, load_whole_weights, on_mesh
from fugaku_jax.training.whole_model import whole_model

# Orbax logs what goes wrong, with tracebacks of all its threads, and then raises it here too.
for _name in ("absl", "concurrent.futures"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class RunCheckpoints:
    """The checkpoints in one run directory; a context manager that waits for the last save.

    Args:
        run_dir: the run.
        config: how many to keep; None to read, or to write a single one.
        keeps_first: whether to keep that of step 0, too.
    """

    def __init__(
        self, run_dir: Path, config: CheckpointConfig | None = None, keeps_first: bool = False
    ) -> None:
        self._run_dir, self._config = run_dir, config
        self._copy: TrainState | None = None  # what is being written, or was last
        self._first = {0} if keeps_first else set()
        self._kept = self._first  # steps that are kept beside the latest
        if config:
            with self._writing():
                self._checkpointer.reload()

    @functools.cached_property
    def _checkpointer(self) -> ocp.training.Checkpointer:
        policy = kept_checkpoints(self._config.keep, lambda: self._kept) if self._config else None
        with saving_options() as context:
            return ocp.training.Checkpointer(
                LiteralPath(checkpoint_folder(self._run_dir)),
                context=context,
                preservation_policy=policy,
                cleanup_tmp_directories=self._config is not None,
            )

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if "_checkpointer" not in vars(self):
            return
        # What ended the session is worth more to say than what comes of it here.
        with contextlib.suppress(RunError) if error else contextlib.nullcontext(), self._writing():
            self._checkpointer.close()

    def keep(self, step: int | None) -> None:
        """Keep the checkpoint of a step, and no other but the first, beside the latest ones."""
        self._kept = self._first if step is None else self._first | {step}

    def latest_step(self) -> int | None:
        """Return the step of the newest complete checkpoint; None if there is none."""
        steps = saved_steps(self._run_dir)
        return steps[-1] if steps else None

    def wait(self) -> None:
        """Wait until the last save is on disk.

        Raises:
            RunError: it failed.
        """
        with self._writing():
            self._checkpointer.wait()

    def safe(self) -> str:
        """Say which checkpoint the run can go on from, once the last save is on disk."""
        self.wait()
        return what_is_safe(self._run_dir)

    def save(self, step: int, layout: Layout, state: TrainState, identity: dict[str, Any]) -> None:
        """Start saving a copy of the state, once the last save is on disk.

        The copy's memory is kept for the next one: to fault it in anew would take longer than to
        copy, and were the state itself written, JAX would copy what the next step overwrites.

        Args:
            step: steps taken.
            layout: of the state.
            state: what to save; may be donated as soon as this returns.
            identity: what the numbers mean: configuration and data, as JSON can hold it.

        Raises:
            RunError: the state is not finite, or this or the last save failed.
        """
        self.wait()
        self._copy = saved = in_layer_order(layout, state, self._copy)
        if not _is_finite(saved):
            raise RunError(
                f"The weights or their moments after step {step} are not finite, so they are not "
                f"saved; {self.safe()}. Go on from there with a lower learning rate, or clip "
                "gradients, in another --run-dir."
            )
        with self._writing():
            self._checkpointer.save_checkpointables_async(
                step, {STATE: saved, IDENTITY: _numbered(identity)}, force=True
            )

    def save_frozen(self, layout: Layout, state: TrainState, identity: dict[str, Any]) -> None:
        """Save the weights that a run's adapters are beside, as step 0; arguments as of `save`."""
        weights = frozen_in_layer_order(layout, state)
        with self._writing():
            self.save_parameters({"parameters": weights}, identity)

    def save_parameters(
        self, parameters: ocp.StatefulCheckpointable | PyTree, identity: dict[str, Any]
    ) -> None:
        """Save the weights that a run starts from, as step 0.

        Args:
            parameters: a tree that holds them under the key `parameters`, or what saves one.
            identity: as for `save`.

        What goes wrong while they are made or written comes up as it is.
        """
        items = {STATE: parameters, IDENTITY: _numbered(identity)}
        self._checkpointer.save_checkpointables(0, items)

    def restore(self, layout: Layout, optimizer: Optimizer | None = None) -> TrainState | None:
        """Load the newest good checkpoint, each array where the layout has it.

        Those newer than it are set aside, and it is said.

        Args:
            layout: the run on its mesh.
            optimizer: what updates it; the one that its configuration names if not given.

        Returns:
            the state; None if no checkpoint is there.

        Raises:
            RunError: there are checkpoints, and none is good; nothing was changed.
            InputError: they are another optimizer's.
        """
        damaged: dict[int, DamagedCheckpoint] = {}
        for step in reversed(named_steps(self._run_dir)):
            try:
                state = self.restore_step(step, layout, optimizer)
            except DamagedCheckpoint as error:
                damaged[step] = error
            else:
                self._set_aside(damaged, step)
                return state
        if damaged:
            first, *others = damaged.values()
            raise RunError(
                f"{first.found}; {'none before it is good' if others else 'there is no other'}."
            )
        return None

    def restore_parameters(
        self, layout: Layout, dtype: DTypeLike = jnp.float32
    ) -> PyTree[Shaped[Array, "..."]]:
        """Load the weights of the newest checkpoint, adapters in them, and nothing else of it.

        Args:
            layout: where they belong.
            dtype: type that they are cast to, each as it is read.

        Raises:
            DamagedCheckpoint: it cannot be read.
        """
        return load_whole_weights(self._run_dir, self.latest_step() or 0, layout, dtype)

    def restore_step(
        self, step: int, layout: Layout, optimizer: Optimizer | None = None
    ) -> TrainState:
        """Load the checkpoint of a step, as `restore` does.

        Raises:
            DamagedCheckpoint: it cannot be read.
            InputError: it is another optimizer's.
        """
        optimizer = optimizer or make_optimizer(layout)
        if step == 0:
            return fresh_state(layout, load_weights(self._run_dir, 0, layout), optimizer)
        types, there = saved_types(layout, optimizer), saved_names(self._run_dir, step)
        if there and _within("moments", there) != names(types.moments):
            # A later version, which may mean something else by its names, says so first.
            with contextlib.suppress(DamagedCheckpoint):
                check_format(self._run_dir, step)
            raise InputError(
                f"{self._run_dir / CHECKPOINTS / str(step)} holds what another optimizer "
                "remembers; go on with the one that the run began with, or begin another by "
                "another --run-dir."
            )
        first = first_memory(layout.config.training)
        absent = {name: x for name, x in first.items() if x and there and not _within(name, there)}
        wanted = replace(types, **dict[str, Any](dict.fromkeys(absent)))
        state = load(self._run_dir, step, on_mesh(layout, wanted))
        if absent:
            self._say_absent(step, absent)
            with layout.active():
                state = replace(state, **jax.jit(lambda: absent)())
        if int(state.step) != step:
            raise DamagedCheckpoint(self._run_dir, step, f"it is of step {int(state.step)}")
        state = in_storage_order(layout, state, optimizer)
        if layout.is_lora:
            state = replace(state, frozen=load_weights(self._run_dir, 0, layout))
        return state

    def _say_absent(self, step: int, absent: Collection[str]) -> None:
        if jax.process_index() == 0:
            print(
                f"{self._run_dir / CHECKPOINTS / str(step)} holds no {' and no '.join(absent)}: "
                "that begins anew.",
                file=sys.stderr,
            )

    def _set_aside(self, damaged: dict[int, DamagedCheckpoint], good: int) -> None:
        if not damaged:
            return
        if jax.process_index() == 0:
            for step, error in damaged.items():
                aside = set_aside(self._run_dir, step)
                print(
                    f"warning: {error.found}; it is now {aside.name}, and the run goes on from "
                    f"step {good}.",
                    file=sys.stderr,
                )
        wait_for_all("set aside")
        self._checkpointer.reload()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn what goes wrong while a checkpoint is written, at whichever call it comes up."""
        try:
            yield
        except Exception as error:
            raise RunError(
                f"No checkpoint could be written to {self._run_dir / CHECKPOINTS}; "
                f"{what_is_safe(self._run_dir)}. What failed: {reason(error)}."
            ) from error


def load_model(
    run_dir: Path, dtype: DTypeLike = jnp.float32, mesh: MeshConfig | None = None
) -> tuple[Config, GPT]:
    """Load configuration and weights of a run's newest checkpoint, for use rather than training.

    The weights are split by the tensor axes of the mesh; all its other axes carry data.

    Args:
        run_dir: the run.
        dtype: type of the weights.
        mesh: how this job's devices share the model, whatever the run's own mesh was; all carry
            data if not given. The configuration that is returned says so.

    Raises:
        InputError: the directory is no run, or nothing was saved in it yet; the mesh does not fit.
        DamagedCheckpoint: the checkpoint cannot be read.
    """
    config = replace(read_config(run_dir), mesh=mesh or MeshConfig())
    with RunCheckpoints(run_dir) as checkpoints:
        if checkpoints.latest_step() is None:
            raise InputError(f"{run_dir} has no checkpoint yet; train it first.")
        layout = layout_for_use(config)
        parameters = checkpoints.restore_parameters(layout, dtype)
        return config, whole_model(layout, parameters)


def _numbered(identity: dict[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT} | identity


def _within(field: str, there: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays of one field of a state, by their names in it."""
    start = f"{field}."
    return {name.removeprefix(start): x for name, x in there.items() if name.startswith(start)}


def _is_finite(state: PyTree[Shaped[Array, "..."]]) -> bool:
    """Tell, in all processes alike, whether no number of a state is infinite or NaN."""
    # NumPy needs no program compiled; a NaN is both the least and the greatest of its array.
    mine = (
        np.isfinite([each.min(), each.max()]).all()
        for array in jax.tree.leaves(state)
        for each in (np.asarray(x.data) for x in array.addressable_shards if x.replica_id == 0)
    )
    return not anywhere(not all(mine))
