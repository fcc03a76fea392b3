"""What the watchdog hears of a run, and what a run hears of its job's end."""

import time

import jax
import jax.numpy as jnp
import pytest

from fugaku_jax.cluster.watchdog import Watchdog
from fugaku_jax.data.batch import Batch
from fugaku_jax.errors import InputError
from fugaku_jax.run.checkpoint_folder import saved_steps
from fugaku_jax.training import loop
from fugaku_jax.training.adamw import Moments
from fugaku_jax.training.hooks.hook import Hook
from fugaku_jax.training.hooks.watch import Watch
from fugaku_jax.training.state import TrainState
from fugaku_jax.training.trainer import Trainer


class Witness(Watchdog):
    """Writes down what it hears, and watches nothing."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def watch(self, hang_seconds, step):
        self.heard.append((hang_seconds, step))

    def completed(self, step, long):
        self.heard.append((step, long))

    def rest(self):
        self.heard.append("rest")


class Saves(Hook):
    """Needs every third state."""

    def needs_state(self, step):
        return step % 3 == 0


def test_it_hears_of_each_step_whether_the_next_takes_longer_and_of_the_end():
    moments = Moments({"w": jnp.zeros(())}, {"w": jnp.zeros(())}, jnp.int32(0))
    state = TrainState({"w": jnp.float32(1)}, moments, jnp.int32(1), None)
    watchdog, saves = Witness(), Saves()
    take = jax.jit(lambda state, batch: (state, {"loss": jnp.sum(batch.tokens) * 1.0}))
    batches = ((index, Batch(jnp.full(2, index))) for index in range(1, 5))
    hooks = [saves, Watch(watchdog, 30.0, [saves])]
    assert Trainer(take, state, hooks).run(batches, 1, 5) == 5
    steps = [(2, True), (3, False), (4, False), (5, True)]
    assert watchdog.heard == [(30.0, 1), *steps, "rest"]


@pytest.mark.slow
def test_a_run_saves_and_stops_before_its_job_ends_and_one_that_knows_no_end_is_refused(
    change, tmp_path, monkeypatch
):
    few = {"sample_tokens": 0, "validate_every": 0}
    near = change(training=few | {"stop_before_limit": 3600.0})
    monkeypatch.delenv("FUGAKU_JAX_JOB_END", raising=False)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    with pytest.raises(InputError, match="nothing says when the job ends"):
        loop.train(near, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("FUGAKU_JAX_JOB_END", str(int(time.time()) + 1800))
    assert loop.train(near, tmp_path / "run") == loop.STOPPED
    assert saved_steps(tmp_path / "run") == [2]
