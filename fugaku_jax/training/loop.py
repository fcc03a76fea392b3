"""The training run: from a configuration and a directory to a trained model.

batch = f(step), so a run that was stopped goes on exactly as if it had not been: the state is in
the checkpoint, and everything else follows from the step.
"""

import functools
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from fugaku_jax.config import Config
from fugaku_jax.data.builtin import open_store
from fugaku_jax.data.loader import Loader
from fugaku_jax.data.order import SampleOrder
from fugaku_jax.data.store import Store
from fugaku_jax.evaluation.perplexity import Perplexity
from fugaku_jax.inference.generate import continue_prompts
from fugaku_jax.models.gpt import flops_per_token, parameter_count
from fugaku_jax.sharding.mesh import describe_mesh, set_mesh
from fugaku_jax.sharding.rules import get_rules, parts, spec, use_rules
from fugaku_jax.sharding.schedule_time import bubble
from fugaku_jax.training.checkpoint import RunCheckpoints
from fugaku_jax.training.checkpoint_folder import check_history
from fugaku_jax.training.metrics import MetricsWriter, peak_memory_bytes
from fugaku_jax.training.progress import Progress, amount
from fugaku_jax.training.report import write_report
from fugaku_jax.training.run import (
    Start,
    check_run_dir,
    check_tokenizer,
    check_vocabulary,
    claim_run_dir,
    read_ledger,
    run_identity,
)
from fugaku_jax.training.state import (
    TrainState,
    check_mesh,
    fresh_state,
    init_state,
    whole_model,
)
from fugaku_jax.training.step import make_train_step, pipeline_plan
from fugaku_jax.training.throughput import measure_matmul_flops

DONE = 0
STOPPED = 75
"""Exit code of a run that was stopped early but saved (EX_TEMPFAIL): start it again to go on."""

MOST_SKIPPED_STEPS = 30
"""Steps in a row without a finite gradient before the run gives up: more than fp16's loss scale
needs to fall from its start to 1."""


def train(config: Config, run_dir: Path, start: Start | None = None) -> int:
    """Train, or go on training, the run of this directory.

    Args:
        config: the run.
        run_dir: its directory.
        start: the weights that its first session starts from; random ones if not given.

    Returns:
        `DONE`, or `STOPPED` if `training.stop_after` or a signal (SIGTERM, SIGINT) ended the
        session before the run's last step; the state is saved either way.

    Raises:
        InputError: configuration, store and directory do not fit each other; nothing was written.
        RunError: no checkpoint is good, none could be written, or the weights are not finite.
        FloatingPointError: the gradient stayed infinite or NaN for many steps.
    """
    check_run_dir(run_dir, config)
    check_history(run_dir, config, read_ledger(run_dir), has_start=start is not None)
    store = open_store(config.data.store)
    check_vocabulary(config, store)
    check_tokenizer(run_dir, store, start)
    steps = config.training.steps
    order = SampleOrder.of_store(
        store, config.model.sequence_length, config.training.batch_size, config.data.seed
    )
    set_mesh(config.mesh)
    check_mesh(config)
    # Nobody writes before all have found the directory as it was; then one does.
    _wait_for_all("checked")
    ledger = run_identity(config, store) | ({"imported": start.origin} if start else {})
    if is_writer():
        claim_run_dir(run_dir, config, store, ledger)
    _wait_for_all("claimed")
    with ExitStack() as stack:
        checkpoints = stack.enter_context(RunCheckpoints(run_dir, config.checkpoint))
        state = checkpoints.restore(config)
        first = int(state.step) if state else 0
        if first >= steps:
            if is_writer():
                print(f"{run_dir} is finished: all {steps} steps are done.")
            return DONE
        metrics, progress = _Silent(), _Silent()
        if is_writer():
            metrics = stack.enter_context(MetricsWriter(run_dir, resume_step=first))
            progress = stack.enter_context(Progress(run_dir, first + 1, steps))
        session = _Session(config, store, metrics, progress)
        session.introduce(first)
        if state is None:
            state = fresh_state(config, start.parameters(config)) if start else init_state(config)
        last = min(steps, first + (config.training.stop_after or steps))
        loader = stack.enter_context(
            Loader(
                store,
                order,
                NamedSharding(jax.sharding.get_mesh(), spec(None, "batch", None)),
                config.training.micro_batches,
                first,
                stop_step=last,
                prefetch=config.data.prefetch,
            )
        )
        stop_requested = stack.enter_context(_stop_signals())
        step, saved = first, first
        identity = {"config": config.to_dict(), "ledger": ledger}
        for index, tokens in loader:
            state = session.step(state, tokens)
            step = index + 1
            stop = _anywhere(stop_requested())
            if step % config.checkpoint.every == 0 or step == last or stop:
                checkpoints.save(step, config, state, identity)
                saved = step
            if stop:
                break
        assert saved == step
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
        config: Config,
        store: Store,
        metrics: "MetricsWriter | _Silent",
        progress: "Progress | _Silent",
    ) -> None:
        self.config, self.store = config, store
        self.metrics, self.progress = metrics, progress
        self.tokenizer = store.tokenizer()
        self.perplexity = Perplexity(
            store, config, max_tokens_per_domain=config.training.validation_tokens
        )
        self.train_step: Any = None
        self.matmul_flops = measure_matmul_flops() * jax.device_count()
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
        if jax.device_count() > 1:
            say(f"  mesh: {describe_mesh()}")
        if parts("stage") > 1:
            schedule, _ = pipeline_plan(config)
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
        self._check_finite(step, values["skipped"])
        speed = self.config.tokens_per_step / seconds
        values |= {
            "tokens": step * self.config.tokens_per_step,
            "tokens_per_second": speed,
            "step_seconds": seconds,
            "mfu": speed * flops_per_token(self.config.model) / self.matmul_flops,
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
        train_step = make_train_step(self.config, self.store.end_of_document)
        compiled = train_step.lower(state, tokens).compile()
        # Collectives of gloo give up after 30 s if processes come to them unevenly.
        _wait_for_all("compiled")
        self.progress.say(f"compiled the step in {time.perf_counter() - start:.1f} s")
        return compiled

    def _check_finite(self, step: int, skipped: float) -> None:
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        if self.skipped_in_a_row >= MOST_SKIPPED_STEPS:
            raise FloatingPointError(
                f"The gradient was not finite in {MOST_SKIPPED_STEPS} steps up to step {step}; "
                "the weights are those from before. Try a lower learning rate, or fp32."
            )

    def _validate(self, state: TrainState) -> dict[str, float]:
        model = whole_model(self.config, state.parameters)
        with use_rules(get_rules().without_stages()):
            scores = self.perplexity(model)
        values = {
            "validation_loss": scores.total.nats_per_token,
            "validation_bits_per_byte": scores.total.bits_per_byte,
        }
        for domain, score in scores.domains.items():
            values[f"validation/{domain}/loss"] = score.nats_per_token
            values[f"validation/{domain}/bits_per_byte"] = score.bits_per_byte
        return values

    def _sample(self, step: int, state: TrainState) -> None:
        training, model = self.config.training, whole_model(self.config, state.parameters)
        with use_rules(get_rules().without_stages()):
            texts = continue_prompts(
                model, self.tokenizer, training.prompts, training.sample_tokens, seed=step
            )
        for prompt, text in zip(training.prompts, texts, strict=True):
            self.metrics.sample(step, prompt, text)
            self.progress.sample(step, prompt, text)


class _Silent:
    """Stands in for metrics and progress in the processes that show and write nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def is_writer() -> bool:
    """Tell whether this process is the one that prints and writes the run's files."""
    return jax.process_index() == 0


def _wait_for_all(point: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)


def _anywhere(wish: bool) -> bool:
    """Tell whether any process wishes it: all must stop after the same step."""
    if jax.process_count() == 1:
        return wish
    return bool(np.any(multihost_utils.process_allgather(np.array(wish))))


def _is_time(step: int, every: int, last: int) -> bool:
    return step == last or bool(every and step % every == 0)


@contextmanager
def _stop_signals() -> Iterator[Any]:
    """Turn SIGTERM and SIGINT into a wish to stop after the current step; a second one kills."""
    asked: list[int] = []

    def ask(number: int, _: Any, before: dict[int, Any]) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.getsignal(number)
        signal.signal(number, functools.partial(ask, before=before))
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
