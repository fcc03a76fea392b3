"""The training run: from a configuration and a directory to a trained model.

batch = f(step), so a run that was stopped goes on exactly as if it had not been: the state is in
the checkpoint, and everything else follows from the step.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import jax
import optax

from fugaku_jax.cluster.processes import is_writer, wait_for_all
from fugaku_jax.cluster.time_limit import is_near
from fugaku_jax.cluster.watchdog import Watchdog
from fugaku_jax.config import Config
from fugaku_jax.data.loader import Loader
from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.claim import check_run, held_run
from fugaku_jax.run.identity import Start, read_ledger
from fugaku_jax.run.metrics import MetricsWriter
from fugaku_jax.run.sessions import record_session
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.hooks.guard import Guard
from fugaku_jax.training.hooks.hook import Hook
from fugaku_jax.training.hooks.record import Record
from fugaku_jax.training.hooks.sample import Sample
from fugaku_jax.training.hooks.save import Save
from fugaku_jax.training.hooks.show import Show
from fugaku_jax.training.hooks.speed import Speed
from fugaku_jax.training.hooks.stop import Stop
from fugaku_jax.training.hooks.validate import Validate
from fugaku_jax.training.introduction import introduction
from fugaku_jax.training.optimizer import Optimizer, make_optimizer
from fugaku_jax.training.progress import Progress
from fugaku_jax.training.ranks import Ranks
from fugaku_jax.training.state import TrainState, fresh_state, init_state
from fugaku_jax.training.step import Step, make_train_step
from fugaku_jax.training.stop_signals import stop_signals
from fugaku_jax.training.throughput import measure_peak
from fugaku_jax.training.trainer import Trainer

DONE = 0
STOPPED = 75
"""Exit code of a run that was stopped early but saved (EX_TEMPFAIL): start it again to go on."""


def train(
    config: Config,
    run_dir: Path,
    start: Start | None = None,
    hooks: Sequence[Hook] = (),
    optimizer: optax.GradientTransformation | None = None,
    watchdog: Watchdog | None = None,
) -> int:
    """Train, or go on training, the run of this directory.

    Args:
        config: the run.
        run_dir: its directory.
        start: the weights that its first session starts from; random ones if not given.
        hooks: what else happens around its steps. They see a step when it is validated and sampled;
            what they find is then recorded and shown, and what they say of it is heeded.
        optimizer: what updates the weights if `optimizer.kind` is `recipe`, of optax.
        watchdog: what ends this process if a step is not completed in time.

    Returns:
        `DONE`, or `STOPPED` if `training.stop_after`, `training.stop_before_limit` or a signal
        (SIGTERM, SIGINT, SIGHUP) ended the session before the run's last step; the state is saved
        either way.

    Raises:
        InputError: configuration, store and directory do not fit each other, or another program
            trains there; nothing was written.
        RunError: the loss at the end, or the gradient of many steps, is infinite or NaN, no
            checkpoint is good, or a file cannot be written; the sentence says what is safe.
    """
    limit_is_near = is_near(config.training.stop_before_limit)
    store, order = check_run(config, run_dir, start)
    layout = make_layout(config)
    updating = make_optimizer(layout, optimizer)
    steps = config.training.steps
    with (
        held_run(config, run_dir, store, start),
        layout.active(),
        RunCheckpoints(run_dir, config.checkpoint) as checkpoints,
        ExitStack() as stack,
    ):
        state = checkpoints.restore(layout, updating)
        first = int(state.step) if state else 0
        if first >= steps:
            if is_writer():
                print(f"{run_dir} is finished: all {steps} steps are done.")
            return DONE
        say, writing = _open_files(stack, run_dir, first, steps)
        peak = measure_peak(config.training.precision)
        for line in introduction(layout, store, peak, first, start):
            say(line)
        ranks = Ranks(layout, watchdog)
        ranks.test(say)
        if state is None:
            given = start and start.parameters(layout)
            state = fresh_state(layout, given, updating) if given else init_state(layout, updating)
        identity = {"config": config.to_dict(), "ledger": read_ledger(run_dir)}
        around: list[Hook] = [
            *(Speed(config, peak), Validate(layout, store), Sample(layout, store.tokenizer())),
            *hooks,
            *writing,
            *(Guard(checkpoints.safe), Save(checkpoints, layout, identity)),
            Stop(stack.enter_context(stop_signals()), limit_is_near),
        ]
        around += ranks.hooks(run_dir, say, lambda: loader.wait_seconds, around)
        last = min(steps, first + (config.training.stop_after or steps))
        ahead = config.data.prefetch
        loader = Loader(store, order, layout.batch, first, stop_step=last, prefetch=ahead)
        stack.enter_context(loader)
        keep_losses = any(hook.needs_losses for hook in around)
        take_step = _compile(layout, updating, keep_losses, state, say)
        step = Trainer(take_step, state, around).run(loader, first, last)
        if loader.wait_seconds > 1:
            say(f"waited {loader.wait_seconds:.1f} s for data in all")
        if step < steps:
            say(f"stopped after step {step} and saved; the same command goes on")
    if is_writer():
        _draw_report(run_dir, finished=step >= steps)
    return DONE if step >= steps else STOPPED


def _open_files(
    stack: ExitStack, run_dir: Path, first: int, steps: int
) -> tuple[Callable[[str], None], list[Hook]]:
    """Open what the writing process writes and shows; return how to say something, and hooks."""
    if not is_writer():
        return (lambda _: None), []
    metrics = stack.enter_context(MetricsWriter(run_dir, resume_step=first))
    progress = stack.enter_context(Progress(run_dir, first + 1, steps))
    record_session(run_dir, first, jax.process_count(), jax.device_count())
    return progress.say, [Record(metrics), Show(progress)]


def _compile(
    layout: Layout,
    optimizer: Optimizer,
    keep_losses: bool,
    state: TrainState,
    say: Callable[[str], None],
) -> Step:
    start = time.perf_counter()
    train_step = make_train_step(layout, keep_losses, optimizer)
    compiled = train_step.lower(state, layout.batch).compile()
    # Collectives of gloo give up after 30 s if processes come to them unevenly.
    wait_for_all("compiled")
    say(f"compiled the step in {time.perf_counter() - start:.1f} s")
    return compiled


def _draw_report(run_dir: Path, finished: bool) -> None:
    # Here, as Matplotlib comes with it, which takes a second and nobody else needs.
    from fugaku_jax.report.report import write_report

    report = write_report([run_dir], run_dir / "report.html")
    if finished:
        print(f"done; see {report}")
