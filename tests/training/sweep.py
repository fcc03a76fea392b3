"""Hold runs drawn at random against one device: combinations that nobody has tried.

`make sweep SECONDS=600` tries as many as it can in that time, from a seed that it prints;
`SEED=7` begins at that one. A run that differs from one device, raises anything but `InputError`,
hangs or kills its process is shown as a command, with as few fields as show the fault.
`python tests/training/sweep.py --case '{"mesh.data": 2}'` tries a single one.

Exit codes: 0 all are equal or refused, 1 some failed.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from drawn_runs import DEVICES, STEPS, command, config_of, draw, on_one_device

from fugaku_jax.config import Config
from fugaku_jax.errors import InputError

PROGRAM = (sys.executable, os.path.abspath(__file__), "--answer")
"""Answers each run with a line."""
LIMIT_SECONDS = 900
"""How long a run, of half a minute on a free machine, may take before it counts as hanging."""
MOST_TRIES = 30
"""How many smaller runs are tried to show a fault."""

# What may differ: losses and norms by a part of their size; an array's mean gradient by a part of
# its norm, and, as some have hardly any (a key's bias has none but rounding), by a part of the norm
# of all. fp32 has 24 bits and adds some thousand terms in another order, through three steps. fp16
# has 11 bits and bf16 8, and devices that share a sum round its parts; that is some roundings of
# 2^-11 (2^-8) in an array, which mostly cancel in a norm. What is left out of a sum or counted
# twice changes an array by a tenth of its size or more. A model of a few numbers' width has nothing
# that its roundings could cancel with (found: norms 0.8 % off in fp16 at width 4); where one device
# in that precision is as far from itself in fp32, that is allowed too.
TOLERANCES = {
    "fp32": (1e-5, 1e-3, 1e-5),
    "fp16": (1e-3, 2e-2, 1e-3),
    "bf16": (2e-3, 5e-2, 2e-3),
}


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    kind: str
    """`equal`, `refused`, or the fault: `differs`, `raises`, `dies`, `hangs`."""
    said: str
    """The refusal's sentence, or what shows the fault."""

    @property
    def failed(self) -> bool:
        """Whether it is a fault."""
        return self.kind not in ("equal", "refused")


class Trier:
    """Tries runs in a process of its own, and in another one when a run has ended that."""

    def __init__(
        self, program: Sequence[str] = PROGRAM, limit_seconds: float = LIMIT_SECONDS
    ) -> None:
        """Take the program that answers, and how long it may take for a run."""
        self.program, self.limit_seconds = program, limit_seconds
        self.process: subprocess.Popen[str] | None = None
        self.complaints = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115

    def __enter__(self) -> "Trier":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()
        self.complaints.close()

    def __call__(self, fields: dict[str, Any]) -> Outcome:
        """Try a run."""
        process = self.process = self.process or self._start()
        hung = threading.Event()
        timer = threading.Timer(self.limit_seconds, lambda: (hung.set(), process.kill()))
        timer.start()
        process.stdin.write(json.dumps(fields) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        timer.cancel()
        if answer:
            return Outcome(**json.loads(answer))
        code = process.wait()
        self.process = None
        self.complaints.seek(0)
        last = self.complaints.read()[-2000:]
        kind = "hangs" if hung.is_set() else "dies"
        return Outcome(kind, f"exit code {code}; the last it said:\n{last}")

    def _start(self) -> subprocess.Popen[str]:
        self.complaints.seek(0)
        self.complaints.truncate()
        return subprocess.Popen(
            self.program,
            env=os.environ
            | {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
                f"--xla_force_host_platform_device_count={DEVICES} "
                # Compiling takes nearly all the time, and a third of it this way.
                "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
                "--xla_cpu_parallel_codegen_split_count=1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            text=True,
        )


def answer() -> None:
    """Read runs, a line of JSON each, and answer each with a line: what became of it."""
    answers, sys.stdout = sys.stdout, sys.stderr
    known: dict[Any, dict[str, np.ndarray]] = {}
    for line in sys.stdin:
        outcome = compare(json.loads(line), known)
        print(json.dumps(asdict(outcome)), file=answers, flush=True)


def compare(fields: dict[str, Any], known: dict[Any, dict[str, np.ndarray]]) -> Outcome:
    """Train on the run's mesh and on one device.

    Args:
        known: what one device found before, which is added to.
    """
    import jax
    from first_steps import lay_out, train

    try:
        config = config_of(fields)
        layout = lay_out(config)
    except InputError as refusal:
        return Outcome("refused", str(refusal))
    try:
        many = train(layout, STEPS)
        alone, precision = on_one_device(config), config.training.precision
        exact = replace(alone, training=replace(alone.training, precision="fp32"))

        def found(run: Config) -> dict[str, np.ndarray]:
            if run not in known:
                known[run] = train(lay_out(run), STEPS)
            return known[run]

        differing = differences(many, found(alone), precision)
        if differing and precision != "fp32":
            differing = differences(many, found(alone), precision, found(exact))
    except Exception:
        return Outcome("raises", traceback.format_exc(limit=-6))
    finally:
        jax.clear_caches()  # for their memory: no two runs share a program
    return Outcome("differs", differing) if differing else Outcome("equal", "")


def differences(
    many: dict[str, np.ndarray],
    one: dict[str, np.ndarray],
    precision: str,
    exact: dict[str, np.ndarray] | None = None,
) -> str:
    """Return what differs by more than rounding; nothing if nothing does.

    Args:
        many: found on the mesh.
        one: found on one device.
        precision: of both.
        exact: found on one device in fp32, for how far the precision alone leads.
    """
    figure, own, of_all = TOLERANCES[precision]
    exact = one if exact is None else exact
    said = [
        f"{name} {many[name]} on the mesh, {one[name]} on one device"
        for name in ("losses", "norms")
        if not np.all(
            abs(many[name] - one[name]) <= figure * one[name] + abs(exact[name] - one[name])
        )
    ]
    if many["slots without a layer"].any():
        said.append(f"slots without a layer hold {many['slots without a layer']}")
    means = [name for name in one if name.startswith("mean/")]
    whole = np.sqrt(sum(np.linalg.norm(one[name]) ** 2 for name in means))
    wrong = []
    for name in means:
        size, off = np.linalg.norm(one[name]), np.linalg.norm(many[name] - one[name])
        rounding = np.linalg.norm(exact[name] - one[name])
        if not off <= own * size + of_all * whole + rounding:
            wrong.append(
                (off / (size or 1), f"{name} off by {off:.1e} of {size:.1e}, {whole:.1e} in all")
            )
    return "\n".join(said + [line for _, line in sorted(wrong, reverse=True)[:3]])


def smallest(
    fields: dict[str, Any], kind: str, attempt: Callable[[dict[str, Any]], Outcome]
) -> dict[str, Any]:
    """Take fields away as long as the rest still fails in the same way."""
    tries, progress = 0, True
    while progress:
        progress = False
        for name in sorted(fields):
            if tries >= MOST_TRIES:
                return fields
            fewer = {other: value for other, value in fields.items() if other != name}
            tries += 1
            if attempt(fewer).kind == kind:
                fields, progress = fewer, True
    return fields


def report(fields: dict[str, Any], outcome: Outcome) -> None:
    """Print what shows a fault."""
    print(f"\nFAILED ({outcome.kind}): {outcome.said.strip()}")
    print(f"  {command(fields)}")
    if outcome.kind == "differs":
        alone = {name: value for name, value in fields.items() if not name.startswith("mesh.")}
        print(f"differs from\n  {command(alone)}\nBoth are tried by")
    print(f"  python tests/training/sweep.py --case '{json.dumps(fields)}'", flush=True)


def sweep(seed: int, seconds: float, most: int | None = None) -> Counter[str]:
    """Try runs until time is over, or as many as are asked for; count what became of them."""
    print(f"seed {seed}", flush=True)
    deadline = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    with Trier() as attempt:
        while time.monotonic() < deadline and (most is None or counts.total() < most):
            fields = draw(random.Random(f"{seed}/{counts.total()}"))
            outcome = attempt(fields)
            counts[outcome.kind] += 1
            if not outcome.failed:
                print(f"{counts.total()} {outcome.kind} {outcome.said}", flush=True)
            else:
                report(fields, outcome)
                fewer = smallest(fields, outcome.kind, attempt)
                report(fewer, attempt(fewer))
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    print(f"{counts.total()} tried: {kinds} (seed {seed})")
    return counts


def main() -> int:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--case", type=json.loads, help="a run's fields as JSON")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.answer:
        answer()
        return 0
    if args.case is not None:
        with Trier() as attempt:
            outcome = attempt(args.case)
        print(f"{outcome.kind}: {outcome.said}")
        return int(outcome.failed)
    counts = sweep(args.seed, args.seconds)
    return int(counts.total() > counts["equal"] + counts["refused"])


if __name__ == "__main__":
    sys.exit(main())
