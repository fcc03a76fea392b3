"""Several processes of a program on this machine, joined as on a cluster and ended together."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from fugaku_jax.errors import InputError
from fugaku_jax.processor import available_cores, bind

WARDEN = Path(__file__).with_name("warden.py")

STOPPED = 75
"""Exit code of a program that was stopped early but saved: no failure."""

SAME_SECONDS = 1.5
"""What rank 0 says with the same exit code within this time is what the first that failed says."""

GRACE_SECONDS = 5.0
"""How long the others have to end by themselves once one has failed, and again after SIGTERM."""


def start_and_wait(
    command: list[str],
    processes: int,
    devices: int | None = None,
    logs: Path | None = None,
    goes_on: Callable[[int], bool] = lambda _: False,
) -> int:
    """Start the processes, pass signals on, and wait until all have ended; again if so wished.

    To be called in the main thread. Each process gets its share of this one's cores; what rank 0
    prints goes where this process prints.

    Args:
        command: the program and its arguments, the same for all.
        processes: how many to start.
        devices: how many to emulate in each; None leaves it to JAX.
        logs: folder for what the other ranks print; else one sees only the end of one that failed.
        goes_on: tells after which exit codes all are to be started again. It is not asked once a
            signal was passed on.

    Returns:
        of those that were started last, the exit code of the first rank that failed (128 + N if
        signal N killed it), else 75 if they stopped and saved, else 0.

    Raises:
        InputError: the program cannot be started, or `logs` not written.
    """
    signals = Signals()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: signals.came(got))
    while True:
        code = _start_once(command, processes, devices, logs, signals)
        if signals.any_came or not goes_on(code):
            return code


class Signals(list[int]):
    """Signals that have come and are yet to be passed on."""

    any_came = False

    def came(self, number: int) -> None:
        """Note one."""
        self.any_came = True
        self.append(number)


def _start_once(
    command: list[str],
    processes: int,
    devices: int | None,
    logs: Path | None,
    signals: list[int],
) -> int:
    environ = os.environ | {
        "FUGAKU_JAX_COORDINATOR": f"127.0.0.1:{free_port()}",
        "FUGAKU_JAX_PROCESSES": str(processes),
    }
    if devices:
        flag = f"--xla_force_host_platform_device_count={devices}"
        environ["XLA_FLAGS"] = f"{environ.get('XLA_FLAGS', '')} {flag}"
    cores = available_cores()
    ranks: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        warden = stack.enter_context(started_warden())
        outputs = [stack.enter_context(log_file(rank, logs)) for rank in range(1, processes)]
        try:
            for rank, output in enumerate([None, *outputs]):
                bind(share(cores, rank, processes))  # the process inherits it
                ranks.append(start(command, environ | {"FUGAKU_JAX_PROCESS": str(rank)}, output))
                warden.write(b"%d\n" % ranks[-1].pid)
        finally:
            bind(cores)
        failed, said, ended = wait(ranks, signals)
        if failed is None:
            return max(each.returncode for each in ranks)
        code = ranks[failed].returncode
        if failed:
            show_end(failed, outputs[failed - 1], said)
        if code < 0 or (ended and not said):
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            others = ", so all were ended" if ended else ""
            print(f"error: rank {failed} ended by {how}{others}.", file=sys.stderr)
        return code if code > 0 else 128 - code


@contextlib.contextmanager
def started_warden() -> Iterator[IO[bytes]]:
    """Start what ends the ranks if this process is killed, or fails.

    Yields:
        an unbuffered file for the process groups of the ranks, one a line.
    """
    with subprocess.Popen(
        [sys.executable, "-IS", str(WARDEN)],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as warden:
        assert warden.stdin
        yield warden.stdin
        warden.kill()


def start(
    command: list[str], environ: dict[str, str], output: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start a rank in a session of its own, so that what it starts can be ended with it."""
    try:
        return subprocess.Popen(
            command, env=environ, stdout=output, stderr=output, start_new_session=True
        )
    except OSError as error:
        raise InputError(f"{command[0]} cannot be started: {error.strerror}.") from error


def wait(ranks: list[subprocess.Popen[bytes]], signals: list[int]) -> tuple[int | None, bool, bool]:
    """Wait for all, and pass `signals` on as they come, those too that came before.

    Returns:
        The first rank that failed, whether rank 0 has said why, and whether others had to be ended.
    """
    failed, said, since, deadline = None, False, 0.0, 0.0
    gentle_first = [signal.SIGKILL, signal.SIGTERM]
    while True:
        codes, now = [each.poll() for each in ranks], time.monotonic()
        while signals:
            send(signals.pop(0), ranks)
        failing = [rank for rank, code in enumerate(codes) if code not in (None, 0, STOPPED)]
        if failed is None and failing:
            # One that a signal killed is the cause of what others report at the same time.
            failed = min(failing, key=lambda rank: ((codes[rank] or 0) > 0, rank))
            since, deadline = now, now + GRACE_SECONDS
        elif failed is not None and now > deadline and gentle_first:
            send(gentle_first.pop(), ranks)
            deadline = now + GRACE_SECONDS
        if failed is not None and now < since + SAME_SECONDS:
            said = codes[0] == codes[failed]
        if None not in codes:
            return failed, said, len(gentle_first) < 2
        time.sleep(0.05)


def send(number: int, ranks: list[subprocess.Popen[bytes]]) -> None:
    """Send a signal to the ranks that still run, and to all that they started."""
    for each in ranks:
        if each.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, number)


def show_end(rank: int, output: IO[bytes], said: bool) -> None:
    """Print how a rank's output ends, unless it is a sentence that rank 0 has said too."""
    output.seek(0)
    lines = output.read().decode(errors="replace").splitlines()
    sentence = bool(lines) and lines[-1].startswith("error: ")
    if not (sentence and said):
        for line in lines[-1:] if sentence else lines[-30:]:
            print(f"[rank {rank}] {line}", file=sys.stderr)


def log_file(rank: int, logs: Path | None) -> IO[bytes]:
    """Open what takes the output of a rank."""
    if logs is None:
        return tempfile.TemporaryFile()
    try:
        logs.mkdir(parents=True, exist_ok=True)
        return (logs / f"rank-{rank}.txt").open("w+b")
    except OSError as error:
        raise InputError(f"--logs {logs} cannot be written: {error}.") from error


def share(cores: list[int], rank: int, processes: int) -> list[int]:
    """Return the cores of a process: a part of them, or one if there are more processes."""
    if processes > len(cores):
        return [cores[rank % len(cores)]]
    first, last = (each * len(cores) // processes for each in (rank, rank + 1))
    return cores[first:last]


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
