"""Speed of single operations: the native kernels beside XLA's and PyTorch's, one machine, one run.

Ours and XLA's run in one process, PyTorch's in another; both live throughout and take turns, call
by call, while the other waits for its input. What is compared is the median call.

As a program, this file is one of these processes: `python kernels.py JAX_OR_TORCH`.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

CONTENDERS = ("native", "xla", "torch")
PEAK_ROUNDS = 2_000_000
WIDTHS_13B = ((5184, 2592), (864, 5184), (5184, 3456), (3456, 5184))
"""Inputs and outputs of a block's products in the 13B model, a sixth of its heads and neurons."""
WIDTHS_125M = ((768, 2304), (768, 768), (768, 3072), (3072, 768))


@dataclass(frozen=True)
class Product:
    """A product of matrices, `[rows, depth]` by `[depth, columns]`."""

    rows: int
    depth: int
    columns: int
    dtype: str = "float32"
    transpose_a: bool = False
    transpose_b: bool = False

    @property
    def name(self) -> str:
        """A word for it: `f32 2048x768x2304 nt`."""
        turned = "".join("t" if t else "n" for t in (self.transpose_a, self.transpose_b))
        return f"{self.dtype} {self.rows}x{self.depth}x{self.columns} {turned}"

    @property
    def flops(self) -> int:
        """Its floating-point operations."""
        return 2 * self.rows * self.depth * self.columns


def products(dtype: str, positions: int = 2048) -> Iterator[Product]:
    """Yield the products of a block: forward, and the gradients of its input and its weights."""
    for inputs, outputs in (*WIDTHS_125M, *WIDTHS_13B):
        yield Product(positions, inputs, outputs, dtype)
        yield Product(positions, outputs, inputs, dtype, transpose_b=True)
        yield Product(inputs, positions, outputs, dtype, transpose_a=True)


def run(
    cases: Sequence[Product],
    rounds: int = 5,
    contenders: Sequence[str] = CONTENDERS,
    say: Callable[[str], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Measure products.

    Args:
        cases: which.
        rounds: timed calls of each contender, in turn.
        contenders: some of `CONTENDERS`, the native kernels among them.
        say: is told what was measured.

    Returns:
        a dictionary a case: `contender`, its name; `gflops` of the native kernel's median call;
        `of_peak`, that over the machine's fp32 multiply-adds on registers alone, measured beside;
        `ratio_to_xla` and `ratio_to_torch`, above 1 is faster; and their `_min` over rounds.

    Raises:
        RuntimeError: a process failed.
    """
    workers = {name: _Worker(name) for name in ("jax", "torch")}
    rows = []
    try:
        for case in cases:
            speeds: dict[str, list[float]] = {name: [] for name in (*contenders, "peak")}
            for _ in range(rounds + 1):
                for name in speeds:
                    worker = workers["torch" if name == "torch" else "jax"]
                    speeds[name].append(worker.ask({"contender": name, "case": asdict(case)}))
            # The first call compiles.
            median = {name: statistics.median(each[1:]) for name, each in speeds.items()}
            row: dict[str, Any] = {"contender": case.name, "gflops": median["native"]}
            row["of_peak"] = median["native"] / median["peak"]
            for other in contenders[1:]:
                pairs = zip(speeds["native"][1:], speeds[other][1:], strict=True)
                row[f"ratio_to_{other}"] = median["native"] / median[other]
                row[f"ratio_to_{other}_min"] = min(a / b for a, b in pairs)
            rows.append(row)
            say(", ".join(f"{k} {v:.2f}" if isinstance(v, float) else v for k, v in row.items()))
    finally:
        for worker in workers.values():
            worker.close()
    return rows


class _Worker:
    """A process that runs a call when asked, and says how fast it was, in GFLOP/s."""

    def __init__(self, library: str) -> None:
        # Threads that wait shall not burn the cores that the other process works on.
        environment = os.environ | {"OMP_WAIT_POLICY": "passive", "JAX_PLATFORMS": "cpu"}
        self.library = library
        self.process = subprocess.Popen(
            [sys.executable, __file__, library],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: dict[str, Any]) -> float:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(question), file=stdin, flush=True)
        answer = stdout.readline()
        if not answer:
            _, error = self.process.communicate()
            raise RuntimeError(f"The process of {self.library} failed:\n{error[-4000:]}")
        return float(answer)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def operands(case: Product) -> tuple[np.ndarray, np.ndarray]:
    """Draw the operands as they lie in memory, in fp32."""
    random = np.random.default_rng(0)
    a, b = (case.rows, case.depth), (case.depth, case.columns)
    shapes = a[::-1] if case.transpose_a else a, b[::-1] if case.transpose_b else b
    x, y = (random.standard_normal(shape, np.float32) for shape in shapes)
    return x, y


def jax_call(contender: str, case: Product) -> Callable[[], object]:
    """Return a call of ours or of XLA's."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import PartitionSpec

    from fugaku_jax.kernels import native
    from fugaku_jax.kernels.matmul import einsum

    os.environ[native.VARIABLE] = "native" if contender == "native" else "reference"
    x, y = (jnp.asarray(each, case.dtype) for each in operands(case))
    left = "km" if case.transpose_a else "mk"
    right = "nk" if case.transpose_b else "kn"

    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        return einsum(f"{left},{right}->mn", x, y, PartitionSpec())

    compiled = jax.jit(product).lower(x, y).compile()
    return lambda: jax.block_until_ready(compiled(x, y))


def peak_call(rounds: int) -> tuple[Callable[[], object], int]:
    """Return multiply-adds on registers alone, on every core, and how many flops they are."""
    import jax
    import jax.numpy as jnp

    from fugaku_jax.kernels import native

    tasks = len(os.sched_getaffinity(0))
    types = [jax.ShapeDtypeStruct((tasks,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)]
    call = jax.jit(lambda: native.call("fma_peak", types, rounds=np.int64(rounds)))
    _, operations = call()
    return lambda: jax.block_until_ready(call()), 2 * tasks * rounds * int(operations)


def torch_call(case: Product) -> Callable[[], object]:
    """Return a call of PyTorch's."""
    import torch

    dtype = getattr(torch, case.dtype)
    x, y = (torch.from_numpy(each).to(dtype) for each in operands(case))
    x, y = x.T if case.transpose_a else x, y.T if case.transpose_b else y
    return lambda: torch.mm(x, y)


def main() -> None:
    """Answer each line of standard input by the speed of a call."""
    calls: dict[str, tuple[Callable[[], object], int]] = {}
    for line in sys.stdin:
        question = json.loads(line)
        contender, case = question["contender"], Product(**question["case"])
        key = f"{contender} {case.name}"
        if key not in calls:
            if len(calls) > 2:
                calls.clear()  # the operands of other cases
            if contender == "peak":
                calls[key] = peak_call(PEAK_ROUNDS)
            elif contender == "torch":
                calls[key] = torch_call(case), case.flops
            else:
                calls[key] = jax_call(contender, case), case.flops
        call, flops = calls[key]
        start = time.perf_counter()
        call()
        print(flops / (time.perf_counter() - start) * 1e-9, flush=True)


if __name__ == "__main__":
    main()
