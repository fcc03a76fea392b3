"""The training run: from a configuration and a directory to a trained model.

batch = f(step), so a run that was stopped goes on exactly as if it had not been: the state is in
the checkpoint, and everything else follows from the step. A run whose steps only go wrong goes back
to a checkpoint, and past the batches that those read.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Float

from fugaku_jax.cluster.decisions import wait_for_all
from fugaku_jax.cluster.processes import is_writer
from fugaku_jax.cluster.time_limit import is_near
from fugaku_jax.cluster.watchdog import Watchdog
from fugaku_jax.config import Config
from fugaku_jax.data.loader import Loader
from fugaku_jax.data.store import Store
from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.best import drop_what_was_worse, end_early, ended_at
from fugaku_jax.run.claim import check_run, held_run
from fugaku_jax.run.data_order import order_of_run
from fugaku_jax.run.document_losses import drop_losses_after
from fugaku_jax.run.going_back import SickSteps, record_going_back, where_to
from fugaku_jax.run.identity import Start, read_ledger
from fugaku_jax.run.metrics import REPORT_FILE, MetricsWriter, is_drawn
from fugaku_jax.run.sessions import record_seconds, record_session
from fugaku_jax.sections.tuning import OF_PAIRS
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.hooks.document_losses import DocumentLosses
from fugaku_jax.training.hooks.flipped_bits import Again, Replicas
from fugaku_jax.training.hooks.guard import Guard
from fugaku_jax.training.hooks.hook import Hook
from fugaku_jax.training.hooks.keep_best import KeepBest
from fugaku_jax.training.hooks.record import Record
from fugaku_jax.training.hooks.sample import Sample
from fugaku_jax.training.hooks.save import Save
from fugaku_jax.training.hooks.show import Show
from fugaku_jax.training.hooks.speed import Speed
from fugaku_jax.training.hooks.stop import Stop
from fugaku_jax.training.hooks.validate import Validate
from fugaku_jax.training.hooks.validate_pairs import ValidatePairs
from fugaku_jax.training.introduction import introduction
from fugaku_jax.training.optimizer import Optimizer, make_optimizer
from fugaku_jax.training.progress import Progress
from fugaku_jax.training.ranks import Ranks
from fugaku_jax.training.reference import keep_reference, reference_of_run
from fugaku_jax.training.state import TrainState, abstract_state, fresh_state, init_state
from fugaku_jax.training.step import Step, make_train_step
from fugaku_jax.training.stop_signals import stop_signals
from fugaku_jax.training.throughput import Peak, measure_peak
from fugaku_jax.training.time_spent import TimeSpent
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
    seconds_before: float = 0.0,
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
        seconds_before: how long the program has been starting, for the account of its time.
        watchdog: what ends this process if a step is not completed in time.

    Returns:
        `DONE`, or `STOPPED` if `training.stop_after`, `training.stop_before_limit` or a signal
        (SIGTERM, SIGINT, SIGHUP) ended the session before the run's last step; the state is saved
        either way.

    Raises:
        InputError: configuration, store and directory do not fit each other, or another program
            trains there; nothing was written.
        RunError: the loss at the end, or the gradient of many steps, is infinite or NaN and going
            back did not help, no checkpoint is good, or a file cannot be written; the sentence says
            what is safe.
    """
    limit_is_near = is_near(config.training.stop_before_limit)
    store = check_run(config, run_dir, start)
    layout = make_layout(config)
    updating, ranks = make_optimizer(layout, optimizer), Ranks(layout, watchdog)
    run = _Run(config, run_dir, store, layout, updating, start, hooks, ranks, limit_is_near)
    spent, news = TimeSpent(seconds_before), ""
    with held_run(config, run_dir, store, start), layout.active():
        while True:
            try:
                last = run.session(spent, news)
                break
            except SickSteps as sick:
                spent, news = TimeSpent(), _go_back(run_dir, sick)
    if last is None:
        return DONE
    early = ended_at(run_dir, config.training.patience) is not None
    finished = early or last >= config.training.steps
    if is_writer():
        _draw_report(run_dir, finished)
    return DONE if finished else STOPPED


@dataclass(frozen=True)
class _Run:
    """What all sessions of a run share; arguments as of `train`."""

    config: Config
    run_dir: Path
    store: Store
    layout: Layout
    optimizer: Optimizer
    start: Start | None
    hooks: Sequence[Hook]
    ranks: Ranks
    limit_is_near: Callable[[], bool]

    def session(self, spent: TimeSpent, news: str) -> int | None:
        """Take the steps that are left, or as many as a session may.

        Args:
            spent: is told where its time goes.
            news: what to say at its beginning.

        Returns:
            the last step taken; None if none was left.
        """
        config, run_dir, layout = self.config, self.run_dir, self.layout
        steps, patience = config.training.steps, config.training.patience
        if ended_at(run_dir, patience) is not None:
            return self._ended_early()
        with ExitStack() as stack:
            options = config.checkpoint, layout.is_lora
            checkpoints = stack.enter_context(RunCheckpoints(run_dir, *options))
            with spent.on("restore"):
                state = checkpoints.restore(layout, self.optimizer)
            first = int(state.step) if state else 0
            if first >= steps:
                if is_writer():
                    print(f"{run_dir} is finished: all {steps} steps are done.")
                    if not is_drawn(run_dir):  # killed after its last save
                        _draw_report(run_dir, finished=True)
                return None
            say, writing = _open_files(stack, run_dir, first, steps, spent)
            peak = measure_peak(config.training.precision)
            lines = introduction(layout, self.store, peak, first, self.start)
            for line in filter(None, (news, *lines)):
                say(line)
            self.ranks.test(say)
            if state is None:
                with spent.on("restore"):
                    state = self._first_state(checkpoints)
            with spent.on("compile"):
                begun, take_step = time.perf_counter(), self._take_step
            say(f"compiled the step in {time.perf_counter() - begun:.1f} s")
            last = min(steps, first + (config.training.stop_after or steps))
            order = order_of_run(run_dir, config, self.store)
            ahead, weight = config.data.prefetch, config.data.prompt_weight
            bounds = {"start_step": first, "stop_step": last, "prefetch": ahead}
            reference = self._reference(first, state)
            validate = self._validate()
            given = self.store, order, layout.batch
            loader = Loader(*given, **bounds, reference=reference, prompt_weight=weight)
            stack.enter_context(loader)
            stop = Stop(stack.enter_context(stop_signals()), self.limit_is_near)
            best = KeepBest(run_dir, checkpoints, patience)
            around = [*self._hooks(checkpoints, peak, spent, validate, writing, best), stop]
            around += self.ranks.hooks(run_dir, say, lambda: loader.wait_seconds, around)
            step = Trainer(take_step, state, around, spent).run(loader, first, last)
            with spent.on("save"):
                checkpoints.wait()
            if loader.wait_seconds > 1:
                say(f"waited {loader.wait_seconds:.1f} s for data in all")
            if patience and best.has_ended:
                say(f"no better than step {best.best.step} for {patience} validations: ended there")
                if is_writer():
                    end_early(run_dir, best.best, patience)
                wait_for_all("ended early")
            elif step < steps:
                say(f"stopped after step {step} and saved; the same command goes on")
        return step

    def _ended_early(self) -> None:
        if is_writer():
            drop_what_was_worse(self.run_dir)
            step = ended_at(self.run_dir, self.config.training.patience)
            print(f"{self.run_dir} has ended early: no step was better than {step}, its newest.")
            if not is_drawn(self.run_dir):
                _draw_report(self.run_dir, finished=True)

    @functools.cached_property
    def _take_step(self) -> Step:
        keep_losses = any(hook.needs_losses for hook in [*self.hooks, *self._document_losses])
        train_step = make_train_step(self.layout, keep_losses, self.optimizer)
        state = abstract_state(self.layout, self.optimizer)
        compiled = train_step.lower(state, self.layout.batch).compile()
        # Collectives of gloo give up after 30 s if processes come to them unevenly.
        wait_for_all("compiled")
        return compiled

    @property
    def _document_losses(self) -> list[Hook]:
        if not self.config.training.document_losses:
            return []
        return [DocumentLosses(self.run_dir, self.store.end_of_document)]

    def _reference(self, first: int, state: TrainState) -> Float[np.ndarray, "N"] | None:
        if self.config.tuning.method not in OF_PAIRS:
            return None
        if first == 0:
            weights = state.frozen if self.layout.is_lora else state.parameters
            keep_reference(self.run_dir, self.store, self.layout, weights)
        return reference_of_run(self.run_dir, self.store)

    def _validate(self) -> list[Hook]:
        if not any(each.validation.tokens for each in self.store.sets):
            return []
        if self.config.tuning.method in OF_PAIRS:
            return [ValidatePairs(self.layout, self.store, self.run_dir)]
        return [Validate(self.layout, self.store)]

    @property
    def _identity(self) -> dict[str, Any]:
        return {"config": self.config.to_dict(), "ledger": read_ledger(self.run_dir)}

    def _first_state(self, checkpoints: RunCheckpoints) -> TrainState:
        if self.start is None:
            return init_state(self.layout, self.optimizer)
        weights = self.start.parameters(self.layout)
        state = fresh_state(self.layout, weights, self.optimizer)
        if self.layout.is_lora:
            checkpoints.save_frozen(self.layout, state, self._identity)
        return state

    def _hooks(
        self,
        checkpoints: RunCheckpoints,
        peak: Peak,
        spent: TimeSpent,
        validate: Sequence[Hook],
        writing: Sequence[Hook],
        best: KeepBest,
    ) -> list[Hook]:
        layout, tokenizer, training = self.layout, self.store.tokenizer(), self.config.training
        looking: list[Hook] = []
        if training.check_replicas_every:
            every, pipeline = training.check_replicas_every, layout.rules.pipeline
            looking.append(Replicas(every, checkpoints.safe, pipeline))
        if training.repeat_every:
            looking.append(Again(training.repeat_every, self._take_step, checkpoints.safe))
        return [
            Speed(self.config, peak, spent),
            *validate,
            Sample(layout, tokenizer),
            *self.hooks,
            *self._document_losses,
            *writing,
            Guard(training.most_skipped, checkpoints.safe),
            *looking,
            *([best] if training.patience else []),
            Save(checkpoints, layout, self._identity),
        ]


def _open_files(
    stack: ExitStack, run_dir: Path, first: int, steps: int, spent: TimeSpent
) -> tuple[Callable[[str], None], list[Hook]]:
    """Open what the writing process writes and shows; return how to say something, and hooks."""
    if not is_writer():
        return (lambda _: None), []
    drop_losses_after(run_dir, first)
    metrics = stack.enter_context(MetricsWriter(run_dir, resume_step=first))
    progress = stack.enter_context(Progress(run_dir, first + 1, steps))
    repeated = math.fsum(line.get("step_seconds") or 0.0 for line in metrics.dropped)
    record_session(run_dir, first, jax.process_count(), jax.device_count(), repeated)
    stack.callback(lambda: record_seconds(run_dir, spent.seconds(), True))
    return progress.say, [Record(run_dir, metrics, spent), Show(progress)]


def _go_back(run_dir: Path, sick: SickSteps) -> str:
    """Have the next session begin at a checkpoint, past what the sick steps read; say it."""
    going_back = where_to(run_dir, sick)
    wait_for_all("went back")
    if is_writer():
        record_going_back(run_dir, going_back)
    wait_for_all("recorded that")
    first, last = going_back.first_batch, going_back.last_batch
    return (
        f"{sick.why} in the steps {sick.first} to {sick.last}: back to the checkpoint of step "
        f"{going_back.checkpoint}, and past the batches {first} to {last} (counted from 0; "
        f"`launch/trace.py {run_dir} passed` says what they hold)"
    )


def _draw_report(run_dir: Path, finished: bool) -> None:
    # Here, as Matplotlib comes with it, which takes a second and nobody else needs.
    from fugaku_jax.report.report import write_report

    report = write_report([run_dir], run_dir / REPORT_FILE)
    if finished:
        print(f"done; see {report}")
