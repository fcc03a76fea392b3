"""Kill a training run at any moment, start it again until it is done, and see what was lost.

A moment is drawn by time over a whole session, by the files that Python touches in the run
directory (`dying.py`), by the step whose figures are written, or by what a save has begun. A run of
several processes loses one of them, or all at once with what started them.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorstore as ts

from fugaku_jax.run.checkpoint_folder import UNFINISHED, checkpoint_folder, saved_steps
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.run.identity import LEDGER_FILE
from fugaku_jax.run.metrics import METRICS_FILE, read_metrics, read_samples
from fugaku_jax.run.sessions import read_sessions
from fugaku_jax.run.stragglers import STRAGGLERS_FILE

ROOT = Path(__file__).parents[2]
DYING = Path(__file__).with_name("dying.py")
STEPS = 12
RECIPE = (
    "tiny --model.n-layers 2 --model.d-model 16 --model.n-heads 2 --model.sequence-length 16 "
    f"--model.dropout 0.1 --training.steps {STEPS} --training.batch-size 4 "
    "--training.validate-every 4 --training.validation-tokens 64 --training.sample-every 6 "
    "--training.sample-tokens 2 --checkpoint.every 3"
).split()
"""A run of a few seconds with all that a restart could break."""
OF_TIME = {"goodput", "tokens_per_second", "step_seconds", "mfu", "memory_bytes"}
"""Figures that are of this moment and this machine."""
STAGES = ("start-up", "compile", "small files", "save", "step", "end")
LIMIT_SECONDS = 600
"""How long a session may take before it counts as hanging."""


class Fault(AssertionError):
    """What no kill may do."""


@dataclass(frozen=True)
class Moment:
    """When a session is killed, and what of it."""

    kind: str
    """`time`, `touch`, `step` or `save`."""
    at: float
    """Seconds since the start or since a save began; a count of touches; a step."""
    victim: int | None = None
    """The rank that is killed; None: all, and what started them."""


@dataclass
class Undisturbed:
    """A run that nothing befell, and how long its one session was."""

    folder: Path
    seconds: float
    touches: int


@dataclass
class Session:
    """A program that trains, from its start to its end."""

    command: list[str]
    run_dir: Path
    environ: dict[str, str]
    log: Path
    processes: int
    before: set[str] = field(default_factory=set)

    def start(self) -> subprocess.Popen[bytes]:
        """Start it."""
        self.before = names(self.run_dir)
        with self.log.open("wb") as log:
            return subprocess.Popen(
                self.command,
                env=self.environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def said(self) -> str:
        """Return what it has printed."""
        return self.log.read_text(errors="replace")

    def stage(self, touched: str) -> str:
        """Tell where it was when it ended, from what it left and the file it would have touched."""
        left = [*(names(self.run_dir) - self.before), touched]
        said = self.said()
        if any(name.endswith(".partial") for name in left):
            return "small files"
        if any(UNFINISHED in name for name in left):
            return "save"
        if "compiled the step" in said:
            return "end" if f"step {STEPS}/{STEPS}  loss" in said else "step"
        return "compile" if "parameters, " in said else "start-up"


class Killer:
    """Runs sessions of one training, in a folder of its own, and kills them.

    Args:
        folder: for runs, logs and JAX's cache of compiled programs.
        processes: of the run.
        also: further arguments of the training.
    """

    def __init__(self, folder: Path, processes: int = 1, also: Sequence[str] = ()) -> None:
        self.folder, self.processes, self.also = folder, processes, also
        self.stages: dict[str, int] = dict.fromkeys(STAGES, 0)
        self.kinds: dict[str, int] = {}
        self.restarts = 0
        folder.mkdir(parents=True, exist_ok=True)

    def session(self, run_dir: Path, touch: int = 0) -> Session:
        """Return a session of the run in a directory."""
        train = [str(DYING), str(ROOT / "launch" / "train.py"), *RECIPE, *self.also]
        train += ["--run-dir", str(run_dir)]
        if self.processes > 1:
            local = str(ROOT / "launch" / "cluster" / "local.py")
            mesh = ["--mesh.data", str(self.processes)]
            train = [local, "-n", str(self.processes), "--", *train, *mesh]
        environ = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
            "--xla_cpu_parallel_codegen_split_count=1",
            "DYING": f"{touch}:{run_dir}:{self.folder / 'touches'}",
        }
        log = self.folder / f"{run_dir.name}.log"
        return Session([sys.executable, *train], run_dir, environ, log, self.processes)

    def undisturbed(self) -> Undisturbed:
        """Run it once without a kill, in another directory than before."""
        run_dir = self.folder / "undisturbed"
        while run_dir.exists():
            run_dir = run_dir.with_name(f"{run_dir.name}-again")
        session, begun = self.session(run_dir), time.monotonic()
        self._end(session.start(), session)
        seconds = time.monotonic() - begun
        return Undisturbed(run_dir, seconds, int((self.folder / "touches").read_text()))

    def draw(self, whole: Undisturbed, draw: random.Random) -> Moment:
        """Draw a moment of a session."""
        victim = draw.choice((None, draw.randrange(self.processes)))
        kind = draw.choice(("time", "time", "touch", "touch", "step", "save"))
        if kind == "time":
            return Moment(kind, draw.uniform(0, whole.seconds), victim)
        if kind == "touch":
            return Moment(kind, draw.randint(1, whole.touches), 0)
        if kind == "step":
            return Moment(kind, draw.randint(1, STEPS), victim)
        return Moment(kind, draw.uniform(0, 0.1), victim)

    def kill(self, run_dir: Path, moment: Moment) -> bool:
        """Run a session, and kill it at that moment; tell whether it was done before.

        Raises:
            Fault: it ended by itself otherwise, or a checkpoint is gone.
        """
        touch = int(moment.at) if moment.kind == "touch" else 0
        session, saved = self.session(run_dir, touch), newest(run_dir)
        process = session.start()
        killed = touch > 0 or self._wait_for(moment, process, session)
        if killed and not touch:
            self._kill(process, moment.victim)
        code = self._wait(process, session)
        check_sessions(session, saved)
        if code == 0:
            return True
        if not killed or (touch and code not in (-signal.SIGKILL, 128 + signal.SIGKILL)):
            raise Fault(f"exit code {code} by itself:\n{session.said()[-3000:]}")
        if newest(run_dir) < saved:
            raise Fault(f"the checkpoint of step {saved} is gone")
        touched = (self.folder / "touches.path").read_text() if touch else ""
        self.stages[session.stage(touched)] += 1
        self.kinds[moment.kind] = self.kinds.get(moment.kind, 0) + 1
        self.restarts += 1
        return False

    def finish(self, run_dir: Path) -> None:
        """Let it go on to its end, undisturbed."""
        session, saved = self.session(run_dir), newest(run_dir)
        self._end(session.start(), session)
        check_sessions(session, saved)

    def _wait_for(self, moment: Moment, process: subprocess.Popen[bytes], session: Session) -> bool:
        """Wait for a moment, or for the end of the process before it; tell which it was."""
        begun, run_dir = time.monotonic(), session.run_dir
        reached: dict[str, Callable[[], bool]] = {
            "time": lambda: time.monotonic() - begun >= moment.at,
            "step": lambda: (
                "compiled the step" in session.said() and lines(run_dir / METRICS_FILE) >= moment.at
            ),
            "save": lambda: any(UNFINISHED in name for name in names(run_dir) - session.before),
        }
        if moment.kind == "step" and newest(run_dir) >= moment.at:
            moment = Moment("step", newest(run_dir) + 1, moment.victim)
        while not reached[moment.kind]():
            if process.poll() is not None or time.monotonic() - begun > LIMIT_SECONDS:
                return False
            time.sleep(0.0005 if moment.kind != "time" else 0.01)
        if moment.kind == "save":
            time.sleep(moment.at)
        return process.poll() is None

    def _kill(self, process: subprocess.Popen[bytes], victim: int | None) -> None:
        ranks = ranks_of(process.pid) if self.processes > 1 else {0: process.pid}
        if victim is not None and victim in ranks:
            os.kill(ranks[victim], signal.SIGKILL)
            return
        for pid in (process.pid, *ranks.values()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _wait(self, process: subprocess.Popen[bytes], session: Session) -> int:
        try:
            return process.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill(process, None)
            process.wait()
            raise Fault(f"hangs:\n{session.said()[-3000:]}") from None

    def _end(self, process: subprocess.Popen[bytes], session: Session) -> None:
        if code := self._wait(process, session):
            raise Fault(f"exit code {code} by itself:\n{session.said()[-3000:]}")


def check_sessions(session: Session, saved: int) -> None:
    """Hold a session to have gone on from the newest complete checkpoint, if it came so far."""
    if "compiled the step" not in session.said():
        return
    first = read_sessions(session.run_dir, STEPS)[-1].steps_before
    if first != saved:
        raise Fault(f"went on from step {first}, and the newest checkpoint was that of {saved}")


def check_same(run_dir: Path, whole: Undisturbed) -> None:
    """Hold a run to be, bit for bit, what it would be had nothing befallen it.

    Raises:
        Fault: a parameter, a moment, a figure, a sample, the configuration or the ledger differs,
            or a file is left over.
    """
    for what in (arrays, figures, read_samples, configuration, left_behind):
        one, other = what(run_dir), what(whole.folder)
        if one != other:
            raise Fault(f"{run_dir}: {what.__name__} differ from those of {whole.folder}")


def arrays(run_dir: Path) -> dict[str, Any]:
    """Read shape, type and bytes of all arrays of the last checkpoint, by name."""
    folder = checkpoint_folder(run_dir, STEPS) / "state"
    place = {"driver": "ocdbt", "base": f"{folder.as_uri()}/"}
    names = ts.KvStore.open(place).result().list().result()
    found = {}
    for name in sorted(each.decode() for each in names if each.endswith(b"/zarr.json")):
        path = name.removesuffix("zarr.json")
        array = ts.open({"driver": "zarr3", "kvstore": place | {"path": path}}).result()
        value = array.read().result()
        found[path] = (value.shape, value.dtype.name, value.tobytes())
    return found


def figures(run_dir: Path) -> list[str]:
    """Return the figures of all steps that do not depend on the time."""
    return [
        json.dumps({name: value for name, value in line.items() if name not in OF_TIME})
        for line in read_metrics(run_dir)
    ]


def configuration(run_dir: Path) -> list[bytes]:
    """Return what the run says of itself."""
    return [(run_dir / name).read_bytes() for name in (CONFIG_FILE, LEDGER_FILE)]


def newest(run_dir: Path) -> int:
    """Return the step of the newest complete checkpoint, 0 if there is none."""
    return max(saved_steps(run_dir), default=0)


def names(run_dir: Path) -> set[str]:
    """Return the names of what lies in a run directory and its folder of checkpoints."""
    folders = (run_dir, run_dir / "checkpoints")
    return {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}


def left_behind(run_dir: Path) -> set[str]:
    """Return the names of what lies there, but for what a later session removes or nobody minds.

    That is a checkpoint more than are kept, whose removal was cut off by the end, a part of a
    report, and which processes were slow, as only sessions of ten steps or more compare them.
    """
    found = names(run_dir) - {STRAGGLERS_FILE}
    return {name for name in found if not (name.isdecimal() or name.startswith(".report.html."))}


def lines(path: Path) -> int:
    """Count the lines of a file; 0 if it is not there."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def ranks_of(launcher: int) -> dict[int, int]:
    """Return the processes that a launcher has started, by rank."""
    found = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        try:
            environ = Path(f"/proc/{child}/environ").read_bytes()
        except OSError:
            continue
        for entry in environ.split(b"\0"):
            if entry.startswith(b"FUGAKU_JAX_PROCESS="):
                found[int(entry.partition(b"=")[2])] = int(child)
    return found
