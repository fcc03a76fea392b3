"""Ends a job that does not get on, and says which rank it is.

A thread in each process of a job looks about every second, whatever the rest of the program does.
XLA lets it, and so does whatever waits for a file or for another process.
"""

import asyncio
import atexit
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fugaku_jax.cluster.heartbeat import Channel, Meeting, Peer
from fugaku_jax.cluster.rank_names import RankNames, sentence
from fugaku_jax.cluster.rendezvous import name_ranks
from fugaku_jax.errors import InputError, RunError

SILENT_SECONDS = 120.0
"""How long a rank may be silent at most: longer than any import or page fault takes."""
LOST_SECONDS = 2.0
"""How long a rank waits when another has ended without a word: its own fault may be the same."""
MULTIPLE = 10
"""How many times as long as the slowest yet may a step take; and how many times as long as a step
one may that takes more than a step: the first, or with a validation, samples or a checkpoint."""

_PACKAGE = Path(__file__).parents[1]
_SHOWN = 3  # ranks that a sentence describes

_STDERR = 2


def end_process(sentence: str) -> None:
    """Print a sentence, and end without waiting for any thread or any other process."""
    os.write(_STDERR, f"error: {sentence}\n".encode(errors="replace"))
    os._exit(1)


class Watchdog:
    """Watches the processes of a job from one of them.

    Args:
        meeting: how the ranks hear of each other; None for a single process.
        names: what to call ranks; places in the network may be added to it.
        parent: the process that started this one, if this one is to save and stop when that one has
            gone.
        end: what ends this process.
        beat: seconds between two looks, for up to a thousand ranks; more take longer.
    """

    def __init__(
        self,
        meeting: Meeting | None = None,
        names: RankNames | None = None,
        parent: int | None = None,
        end: Callable[[str], None] = end_process,
        beat: float = 1.0,
    ) -> None:
        self._meeting, self._parent, self._end = meeting, parent, end
        self.names = names or RankNames()
        self._rank = meeting.rank if meeting else 0
        self._beat = beat * max(1.0, meeting.n_processes / 1000 if meeting else 1.0)
        self._hang_seconds, self._silent_seconds = 0.0, SILENT_SECONDS
        self._awake = 0.0  # seconds in which this thread was not held up
        self._step = -1
        self._since: float | None = None  # when what is due began; None if nothing is
        self._long = True  # whether more than a step is due
        self._slowest = {False: 0.0, True: 0.0}  # seconds that it took, by that
        self._computes = False
        self._loop: asyncio.AbstractEventLoop
        self._wake, self._leaves = asyncio.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        if meeting:
            self._start()
            atexit.register(self.close)

    def watch(self, hang_seconds: float, step: int) -> None:
        """Begin to watch steps.

        Args:
            hang_seconds: how long one may take, or `MULTIPLE` times its slowest if that is longer;
                0 for as long as it likes.
            step: those taken before.
        """
        self._hang_seconds = hang_seconds
        self._silent_seconds = min(hang_seconds or SILENT_SECONDS, SILENT_SECONDS)
        self._slowest = {False: 0.0, True: 0.0}
        self._step = step
        self._expect(long=True)
        self._start()

    def completed(self, step: int, long: bool) -> None:
        """Note that a step is completed, and all that was to be done about it.

        Args:
            step: the step.
            long: whether more than a step is due before the next is.
        """
        if self._since is not None:
            took = self._awake - self._since
            self._slowest[self._long] = max(self._slowest[self._long], took)
        self._step = step
        self._expect(long)

    def rest(self) -> None:
        """Watch steps no more; a single process is watched no more at all."""
        self._since = None
        if not self._meeting:
            self.close()

    def close(self) -> None:
        """Tell the others that this process comes to its end, and watch no more."""
        thread, self._thread = self._thread, None
        if thread:
            self._leaves.set()
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the thread with it
                self._loop.call_soon_threadsafe(self._wake.set)
            thread.join(3 * self._beat)

    @contextlib.contextmanager
    def blaming(self) -> Iterator[None]:
        """Let what fails unforeseen be said of the rank that has ended before, if one has.

        A collective fails at once where another process has ended; this process then ends here,
        with a sentence about that rank.
        """
        try:
            yield
        except Exception as error:
            if self._meeting and not isinstance(error, InputError | RunError):
                time.sleep(LOST_SECONDS + 3 * self._beat)
            raise

    def _expect(self, long: bool) -> None:
        self._long, self._since = long, self._awake

    def _start(self) -> None:
        if self._thread is None:
            # A thread keeps its own, as it may end later than the next one begins.
            wake, leaves, loop = asyncio.Event(), threading.Event(), asyncio.new_event_loop()
            self._wake, self._leaves, self._loop = wake, leaves, loop

            def run() -> None:
                with asyncio.Runner(loop_factory=lambda: loop) as runner:
                    runner.run(self._look(wake, leaves))

            self._thread = threading.Thread(target=run, name="watchdog", daemon=True)
            self._thread.start()

    async def _look(self, wake: asyncio.Event, leaves: threading.Event) -> None:
        channel = None
        if self._meeting:
            channel = Channel(self._meeting, lambda: self._awake, wake.set)
            await channel.open()
        before = time.monotonic(), time.process_time()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), self._beat)
            if leaves.is_set():
                break
            wake.clear()
            now = time.monotonic(), time.process_time()
            seconds, cpu_seconds = now[0] - before[0], now[1] - before[1]
            before, self._computes = now, cpu_seconds > seconds / 2
            # Where the whole job was suspended, that time does not count.
            self._awake += min(seconds, 2 * self._beat)
            if self._parent and os.getppid() != self._parent:
                self._parent = None
                os.kill(os.getpid(), signal.SIGTERM)
            if channel:
                channel.say(step=self._step, doing=self._doing())
            if verdict := self._judge(channel.peers if channel else {}):
                said, stacks = verdict
                if stacks:
                    faulthandler.dump_traceback(_STDERR, all_threads=True)  # pyrefly: ignore
                if channel and self._rank == 0:
                    channel.say(ends=said, stacks=stacks)
                    await asyncio.sleep(self._beat)  # for it to be heard
                self._end(said)
                return
        if channel:
            await channel.leave(self._beat)

    def _judge(self, peers: Mapping[int, Peer]) -> tuple[str, bool] | None:
        """Return why the job must end, and whether stacks are to be shown; None if it need not."""
        there = {rank: peer for rank, peer in peers.items() if not peer.has_left}
        told = [peer.verdict for peer in there.values() if peer.verdict]
        if told:
            return told[0]
        now, silence = self._awake, max(self._silent_seconds, 5 * self._beat)
        # JAX itself ends the others within moments once rank 0 has ended.
        grace = 0.0 if self._rank else LOST_SECONDS
        lost = [r for r, x in there.items() if x.lost is not None and now - x.lost >= grace]
        if lost:
            after = _after([there[rank] for rank in lost])
            return sentence(f"{self.names(lost)} ended before the others{after}."), False
        silent = [rank for rank, peer in there.items() if now - peer.heard >= silence]
        if silent:
            after, have = _after([there[rank] for rank in silent]), "have" if silent[1:] else "has"
            said = f"{have} been silent for {silence:g} s{after}: stopped, or out of reach."
            return sentence(f"{self.names(silent)} {said}"), True
        since, limit = self._since, self._limit()
        if self._rank or since is None or not limit or now - since < limit:
            return None
        return f"No step was completed for {limit:.4g} s: {self._states(there)}.", True

    def _limit(self) -> float:
        """Return how long what is due may take; 0 for as long as it likes."""
        usual = self._hang_seconds * (MULTIPLE if self._long else 1)
        return max(usual, MULTIPLE * self._slowest[self._long]) if usual else 0.0

    def _states(self, there: Mapping[int, Peer]) -> str:
        """Say where all ranks are: first those that are behind, then those where fewest are."""
        states = {(self._step, self._doing()): [0]}
        for rank, peer in there.items():
            states.setdefault((peer.step, peer.doing), []).append(rank)
        said = []
        for (step, doing), ranks in sorted(states.items(), key=lambda x: (x[0][0], len(x[1]))):
            name = name_ranks(ranks) if len(ranks) > _SHOWN else self.names(ranks)
            said.append(f"{name} {'is' if len(ranks) == 1 else 'are'} {doing} after step {step}")
        return "; ".join(said[:_SHOWN])

    def _doing(self) -> str:
        return f"{'computing' if self._computes else 'waiting'} in {_main_thread_is_in()}"


def _after(peers: Sequence[Peer]) -> str:
    """Say which step ranks have completed last, if they have begun to take any."""
    steps = sorted({peer.step for peer in peers})
    if steps[0] < 0:
        return ""
    return f", after step {'–'.join(map(str, dict.fromkeys((steps[0], steps[-1]))))}"


def _main_thread_is_in() -> str:
    """Name the innermost function of ours that the main thread is in."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(_PACKAGE):
            return f"{path.relative_to(_PACKAGE)}, line {frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back
    return "the program"
