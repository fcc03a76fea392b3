"""Speed of single operations: the native kernels beside XLA's and PyTorch's, one machine, one run.

Ours and XLA's run in one process, PyTorch's in another; both live throughout and take turns, call
by call, while the other waits for its input. What is compared is the median call.

As a program, this module is one of these processes: `python -m fugaku_jax.benchmarks.kernels
JAX_OR_TORCH`.
"""

import contextlib
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from fugaku_jax.benchmarks.attentions import Attention, attentions
from fugaku_jax.benchmarks.products import Product, products
from fugaku_jax.benchmarks.updates import Update
from fugaku_jax.errors import InputError, RunError
from fugaku_jax.huge_pages import huge_page_variables
from fugaku_jax.processor import available_cores

Case: TypeAlias = Product | Attention | Update
"""What is measured: its `name`, its `work` (operations or bytes) and calls of it."""

CONTENDERS = ("native", "xla", "torch")
GROUPS = ("products", "attention", "adamw")
CEILINGS = {
    "peak": ("gflops", "of_peak"),
    "stream": ("gigabytes_per_second", "of_stream"),
}
"""What a case can be held to, a figure of the machine (multiply-adds on registers alone, of the
case's type; bytes through memory, an array updated in place from two), and the names of the case's
own figures."""
PEAK_ROUNDS = 2_000_000
STREAM_ELEMENTS = 1 << 25


def compare(
    rounds: int = 5,
    group: str | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    """Measure the machine, and every operation beside XLA's and, where it is there, PyTorch's.

    Args:
        rounds: timed calls of each contender, in turn.
        group: one of `GROUPS`; all of them if not given.
        say: is told what was measured.

    Returns:
        `machine`, the figures of `machine`; and for each group the rows of `run`.

    Raises:
        InputError: there are no native kernels, or no rounds.
        RunError: a process failed.
    """
    from fugaku_jax.kernels import native

    if rounds < 1:
        raise InputError(f"rounds is {rounds}, but there must be one at least.")
    if native.loaded() is None:
        raise InputError("There are no native kernels here to compare with anything.")
    has_torch = importlib.util.find_spec("torch") is not None
    contenders = CONTENDERS if has_torch else CONTENDERS[:2]
    dtypes = ("float32", "bfloat16")
    cases: dict[str, list[Case]] = {
        "products": [case for dtype in dtypes for case in products(dtype)],
        "attention": [case for dtype in dtypes for case in attentions(dtype)],
        "adamw": [Update()],
    }
    figures: dict[str, Any] = {"machine": machine(rounds)}
    say(f"machine: {figures['machine']}")
    for name in (group,) if group else GROUPS:
        figures[name] = run(cases[name], rounds, contenders, say)
    return figures


def machine(rounds: int) -> dict[str, float]:
    """Measure what the machine can do at most, in medians.

    Returns:
        `cores`, all of which work; `peak_gflops`, in fp32; `stream_gigabytes_per_second`; and
        `triad_gigabytes_per_second`, of a third array that is written past the caches.
    """
    units = {"peak": "gflops", "stream": "gigabytes_per_second", "triad": "gigabytes_per_second"}
    figures: dict[str, float] = {"cores": len(available_cores())}
    with contextlib.closing(_Worker("jax")) as worker:
        for name, unit in units.items():
            speeds = [worker.ask(name) for _ in range(rounds + 1)]
            figures[f"{name}_{unit}"] = statistics.median(speeds[1:])
    return figures


def run(
    cases: Iterable[Case],
    rounds: int = 5,
    contenders: Sequence[str] = CONTENDERS,
    say: Callable[[str], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Measure cases.

    Args:
        cases: which.
        rounds: timed calls of each contender, in turn.
        contenders: some of `CONTENDERS`, the native kernels first.
        say: is told what was measured.

    Returns:
        a dictionary a case: `contender`, its name; of the native kernel's calls the median
        `seconds`, `seconds_min` and `seconds_max`; its speed and that over the machine's, measured
        beside, under the names in `CEILINGS`; and for every other contender `ratio_to_xla` and the
        like, how many times as fast the native kernel's median is, with the least (`_min`) and the
        greatest (`_max`) ratio of a round.

    Raises:
        RunError: a process failed.
    """
    with contextlib.ExitStack() as stack:
        names = ("jax", "torch") if "torch" in contenders else ("jax",)
        workers = {name: stack.enter_context(contextlib.closing(_Worker(name))) for name in names}
        rows = []
        for case in cases:
            speeds: dict[str, list[float]] = {name: [] for name in (*contenders, case.ceiling)}
            for _ in range(rounds + 1):
                for name in speeds:
                    worker = workers["torch" if name == "torch" else "jax"]
                    speeds[name].append(worker.ask(name, case))
            # The first call compiles.
            rows.append(_row(case, {name: each[1:] for name, each in speeds.items()}))
            figures = (f"{k} {v:.3g}" for k, v in rows[-1].items() if k != "contender")
            say(f"{case.name}: {', '.join(figures)}")
        return rows


def _row(case: Case, speeds: dict[str, list[float]]) -> dict[str, Any]:
    ours = speeds["native"]
    median = {name: statistics.median(each) for name, each in speeds.items()}
    speed, share = CEILINGS[case.ceiling]
    row: dict[str, Any] = {"contender": case.name}
    for name, value in (("", median["native"]), ("_min", max(ours)), ("_max", min(ours))):
        row[f"seconds{name}"] = case.work / value * 1e-9
    row |= {speed: median["native"], share: median["native"] / median[case.ceiling]}
    for other in [name for name in speeds if name not in ("native", case.ceiling)]:
        rounds = [a / b for a, b in zip(ours, speeds[other], strict=True)]
        row[f"ratio_to_{other}"] = median["native"] / median[other]
        row |= {f"ratio_to_{other}_min": min(rounds), f"ratio_to_{other}_max": max(rounds)}
    return row


class _Worker:
    """A process that runs a call when asked, and says how fast it was, in work per nanosecond."""

    def __init__(self, library: str) -> None:
        # Threads that wait shall not burn the cores that the other process works on.
        environment = os.environ | {"OMP_WAIT_POLICY": "passive", "JAX_PLATFORMS": "cpu"}
        if library == "jax":  # as our programs start
            environment |= huge_page_variables()
        self.library = library
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, library],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, contender: str, case: Case | None = None) -> float:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        question = contender, type(case).__name__, asdict(case) if case else {}
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(question), file=stdin, flush=True)
        answer = stdout.readline()
        if not answer:
            _, error = self.process.communicate()
            raise RunError(f"The process of {self.library} failed:\n{error[-4000:]}")
        return float(answer)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def peak_call(dtype: str) -> tuple[Callable[[], object], int]:
    """Return multiply-adds on registers alone, on every core, and how many operations they are.

    Args:
        dtype: whose products the kernels multiply as these do.
    """
    import jax
    import jax.numpy as jnp

    from fugaku_jax.kernels import native

    tasks = len(available_cores())
    types = [jax.ShapeDtypeStruct((tasks,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)]
    like, rounds = jnp.zeros((), dtype), jnp.int32(PEAK_ROUNDS)
    call = jax.jit(lambda: native.call("fma_peak", types, like, rounds))
    _, (operations, _) = call()
    return lambda: jax.block_until_ready(call()), 2 * tasks * PEAK_ROUNDS * int(operations)


def stream_call(*, in_place: bool) -> tuple[Callable[[], object], int]:
    """Return `a += b + 3 c` or `a = b + 3 c` over large arrays, and the bytes that it moves.

    Source: McCalpin, "Memory Bandwidth and Machine Balance", 1995 (the triad of STREAM).
    """
    import jax
    import jax.numpy as jnp

    from fugaku_jax.kernels import native

    a, b, c = (jnp.full(STREAM_ELEMENTS, value, jnp.float32) for value in (0, 1, 2))
    like = [jax.ShapeDtypeStruct(a.shape, a.dtype)]

    def update(*arrays: jax.Array) -> jax.Array:
        return native.call("stream", like, *arrays, aliases={0: 0}, in_place=in_place)[0]

    compiled = jax.jit(update, donate_argnums=0)

    def call() -> object:
        nonlocal a
        a = compiled(a, b, c)
        return jax.block_until_ready(a)

    return call, (4 if in_place else 3) * a.nbytes


def main() -> None:
    """Answer each line of standard input by the speed of a call."""
    ceilings = {
        "stream": functools.partial(stream_call, in_place=True),
        "triad": functools.partial(stream_call, in_place=False),
    }
    kinds = {each.__name__: each for each in (Product, Attention, Update)}
    made: dict[str, tuple[Callable[[], object], int]] = {}
    at_hand = None
    for line in sys.stdin:
        contender, kind, fields = json.loads(line)
        if at_hand != (kind, fields):  # the arrays of the case before
            made = {name: each for name, each in made.items() if name in ceilings}
            at_hand = (kind, fields)
        if contender not in made:
            if contender == "peak":
                made[contender] = peak_call(fields.get("dtype", "float32"))
            elif contender in ceilings:
                made[contender] = ceilings[contender]()
            else:
                case = kinds[kind](**fields)
                made[contender] = _call(contender, case), case.work
        call, work = made[contender]
        start = time.perf_counter()
        call()
        print(work / (time.perf_counter() - start) * 1e-9, flush=True)


def _call(contender: str, case: Case) -> Callable[[], object]:
    if contender == "torch":
        return case.torch_call()
    from fugaku_jax.kernels import native

    with native.use("native" if contender == "native" else "reference"):
        return case.jax_call()


if __name__ == "__main__":
    main()
