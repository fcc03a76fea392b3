"""The training run: from a configuration and a directory to a trained model.

batch = f(step), so a run that was stopped goes on exactly as if it had not been: the state is in
the checkpoint, and everything else follows from the step.
"""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax

from fugaku_jax.cluster.processes import anywhere, is_writer, wait_for_all
from fugaku_jax.config import Config
from fugaku_jax.data.builtin import open_store
from fugaku_jax.data.loader import Loader
from fugaku_jax.data.order import SampleOrder
from fugaku_jax.data.store import Store
from fugaku_jax.errors import RunError
from fugaku_jax.evaluation.perplexity import Perplexity
from fugaku_jax.inference.generate import Generator, continue_prompts
from fugaku_jax.layout.layout import Layout
from fugaku_jax.layout.mesh import describe_mesh
from fugaku_jax.models.gpt import flops_per_token, parameter_count
from fugaku_jax.models.layout import make_layout
from fugaku_jax.models.segments import token_before_text
from fugaku_jax.pipeline.duration import bubble
from fugaku_jax.report.report import write_report
from fugaku_jax.run.checkpoint_folder import check_history
from fugaku_jax.run.identity import (
    Start,
    check_run_dir,
    check_tokenizer,
    check_vocabulary,
    claim_run_dir,
    read_ledger,
    run_identity,
)
from fugaku_jax.run.lock import run_lock
from fugaku_jax.run.metrics import MetricsWriter, peak_memory_bytes
from fugaku_jax.run.sessions import record_session
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.doubts import doubts
from fugaku_jax.training.progress import Progress, amount
from fugaku_jax.training.refusals import refusals
from fugaku_jax.training.state import (
    TrainState,
    fresh_state,
    init_state,
    whole_model,
)
from fugaku_jax.training.step import make_train_step
from fugaku_jax.training.stop_signals import stop_signals
from fugaku_jax.training.throughput import measure_peak

DONE = 0
STOPPED = 75
"""Exit code of a run that was stopped early but saved (EX_TEMPFAIL): start it again to go on."""

MOST_SKIPPED_STEPS = 30
"""Steps in a row without a finite gradient before the run gives up: more than fp16's loss scale
needs to fall from its start to 1."""

_ADVICE = "Try a lower optimizer.learning_rate or another training.precision in a new directory."


def train(config: Config, run_dir: Path, start: Start | None = None) -> int:
    """Train, or go on training, the run of this directory.

    Args:
        config: the run.
        run_dir: its directory.
        start: the weights that its first session starts from; random ones if not given.

    Returns:
        `DONE`, or `STOPPED` if `training.stop_after` or a signal (SIGTERM, SIGINT, SIGHUP) ended
        the session before the run's last step; the state is saved either way.

    Raises:
        InputError: configuration, store and directory do not fit each other, or another program
            trains there; nothing was written.
        RunError: the loss at the end, or the gradient of many steps, is infinite or NaN, no
            checkpoint is good, or a file cannot be written; the sentence says what is safe.
    """
    check_run_dir(run_dir, config)
    check_history(run_dir, config, read_ledger(run_dir), has_start=start is not None)
    store = open_store(config.data.store)
    check_tokenizer(run_dir, store, start)
    check_vocabulary(config, store, start)
    steps = config.training.steps
    order = SampleOrder.of_store(
        store, config.model.sequence_length, config.training.batch_size, config.data.seed
    )
    layout = make_layout(config)
    # Nobody writes before all have found the directory as it was; then one does.
    wait_for_all("checked")
    ledger = run_identity(config, store) | ({"imported": start.origin} if start else {})
    with ExitStack() as stack:
        stack.enter_context(refusals(run_dir))
        stack.enter_context(layout.active())
        if is_writer():
            stack.enter_context(run_lock(run_dir))
            claim_run_dir(run_dir, config, store, ledger)
        wait_for_all("claimed")
        checkpoints = stack.enter_context(RunCheckpoints(run_dir, config.checkpoint))
        state = checkpoints.restore(layout)
        first = int(state.step) if state else 0
        if first >= steps:
            if is_writer():
                print(f"{run_dir} is finished: all {steps} steps are done.")
            return DONE
        metrics, progress = _Silent(), _Silent()
        if is_writer():
            metrics = stack.enter_context(MetricsWriter(run_dir, resume_step=first))
            progress = stack.enter_context(Progress(run_dir, first + 1, steps))
            record_session(run_dir, first)
        session = _Session(layout, store, metrics, progress)
        session.introduce(first)
        for doubt in doubts(session.tokenizer, start):
            progress.say(f"warning: {doubt}")
        if state is None:
            state = fresh_state(layout, start.parameters(layout)) if start else init_state(layout)
        last = min(steps, first + (config.training.stop_after or steps))
        loader = stack.enter_context(
            Loader(
                store,
                order,
                layout.tokens,
                config.training.micro_batches,
                first,
                stop_step=last,
                prefetch=config.data.prefetch,
            )
        )
        stop_requested = stack.enter_context(stop_signals())
        step = saved = first
        identity = {"config": config.to_dict(), "ledger": read_ledger(run_dir)}
        for index, tokens in loader:
            state = session.step(state, tokens)
            step = index + 1
            stop = anywhere(stop_requested())
            time_to_save = step % config.checkpoint.every == 0 or step == last or stop
            if time_to_save and math.isfinite(session.loss):
                checkpoints.save(step, layout, state, identity)
                saved = step
            if session.skipped_in_a_row >= MOST_SKIPPED_STEPS:
                raise RunError(
                    f"The gradient was not finite in {MOST_SKIPPED_STEPS} steps up to step {step}, "
                    f"each of which left the weights as they were; {checkpoints.safe()}. {_ADVICE}"
                )
            if stop:
                break
        if saved != step:
            raise RunError(
                f"The loss is not finite at step {step}, so that step was not saved; "
                f"{checkpoints.safe()}. {_ADVICE}"
            )
        if loader.wait_seconds > 1:
            progress.say(f"waited {loader.wait_seconds:.1f} s for data in all")
        finished = step >= steps
        if not finished:
            progress.say(f"stopped after step {step} and saved; the same command goes on")
    if is_writer():
        report = write_report([run_dir], run_dir / "report.html")
        if finished:
            print(f"done; see {report}")
    return DONE if finished else STOPPED


class _Session:
    """One process's share of a run: steps, and what is shown and written about them."""

    def __init__(
        self,
        layout: Layout,
        store: Store,
        metrics: "MetricsWriter | _Silent",
        progress: "Progress | _Silent",
    ) -> None:
        self.layout, self.config, self.store = layout, layout.config, store
        self.metrics, self.progress = metrics, progress
        self.tokenizer = store.tokenizer()
        self.perplexity = Perplexity(
            store, self.config, max_tokens_per_domain=self.config.training.validation_tokens
        )
        self.train_step: Any = None
        self.peak = measure_peak(self.config.training.precision)
        self.loss = math.nan
        self.skipped_in_a_row = 0

    def introduce(self, first: int) -> None:
        """Say what is about to happen."""
        config = self.config
        say = self.progress.say
        say(
            f"{amount(parameter_count(config.model))} parameters, "
            f"{amount(config.tokens_per_step)} tokens a step, {config.training.steps} steps, "
            f"{config.training.precision} on {jax.device_count()} {jax.default_backend()} device"
            f"{'s' if jax.device_count() > 1 else ''}"
        )
        say(f"  peak {self.peak.flops / 1e9:,.0f} GFLOP/s ({self.peak.of}, measured)")
        if jax.device_count() > 1:
            say(f"  mesh: {describe_mesh(self.layout.mesh, self.layout.rules)}")
        if self.layout.rules.pipeline:
            schedule, _ = self.layout.pipeline
            say(f"  pipeline: {schedule.kind}, bubble {bubble(schedule):.1%} (modelled)")
        for each in self.store.sets:
            say(f"  {each.name} ({each.domain}): {amount(each.train.tokens)} tokens")
        if first:
            say(f"going on after step {first}")

    def step(self, state: TrainState, tokens: jax.Array) -> TrainState:
        """Take a step and record it; validate and sample where it is time."""
        if self.train_step is None:
            self.train_step = self._compile(state, tokens)
        start = time.perf_counter()
        state, figures = self.train_step(state, tokens)
        values = {name: float(value) for name, value in figures.items()}
        seconds = time.perf_counter() - start
        step = int(state.step)
        self.loss = values["loss"]
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if values["skipped"] else 0
        speed = self.config.tokens_per_step / seconds
        values |= {
            "tokens": step * self.config.tokens_per_step,
            "tokens_per_second": speed,
            "step_seconds": seconds,
            "mfu": speed * flops_per_token(self.config.model) / self.peak.flops,
            "memory_bytes": peak_memory_bytes(),
        }
        training = self.config.training
        if _is_time(step, training.validate_every, training.steps):
            values |= self._validate(state)
        self.metrics.write(step, values)
        self.progress.step(step, values)
        if training.sample_tokens and _is_time(step, training.sample_every, training.steps):
            self._sample(step, state)
        return state

    def _compile(self, state: TrainState, tokens: jax.Array) -> Any:
        start = time.perf_counter()
        train_step = make_train_step(self.layout, self.store.end_of_document)
        compiled = train_step.lower(state, tokens).compile()
        # Collectives of gloo give up after 30 s if processes come to them unevenly.
        wait_for_all("compiled")
        self.progress.say(f"compiled the step in {time.perf_counter() - start:.1f} s")
        return compiled

    def _validate(self, state: TrainState) -> dict[str, float]:
        scores = self.perplexity(whole_model(self.layout, state.parameters))
        values = {
            "validation_loss": scores.total.nats_per_token,
            "validation_bits_per_byte": scores.total.bits_per_byte,
        }
        for domain, score in scores.domains.items():
            values[f"validation/{domain}/loss"] = score.nats_per_token
            values[f"validation/{domain}/bits_per_byte"] = score.bits_per_byte
        return values

    def _sample(self, step: int, state: TrainState) -> None:
        training, model = self.config.training, whole_model(self.layout, state.parameters)
        first_token = token_before_text(self.config.data, self.tokenizer.end_of_document)
        generator = Generator(model, self.tokenizer, first_token)
        texts = continue_prompts(generator, training.prompts, training.sample_tokens, step)
        for prompt, text in zip(training.prompts, texts, strict=True):
            self.metrics.sample(step, prompt, text)
            self.progress.sample(step, prompt, text)


class _Silent:
    """Stands in for metrics and progress in the processes that show and write nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def _is_time(step: int, every: int, last: int) -> bool:
    return step == last or bool(every and step % every == 0)
