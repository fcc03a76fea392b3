"""The one thread in which an engine steps, and how requests of an event loop reach it."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, InvalidStateError

from fugaku_jax.errors import InputError
from fugaku_jax.inference.continuation import Options
from fugaku_jax.inference.engine import Engine
from fugaku_jax.inference.scheduler import Alternatives, EngineFull, News, Ticket
from fugaku_jax.serving.refusals import Refusal, too_many

Ask = tuple[Sequence[int], Options, int]
"""A prompt's tokens, how it goes on, and how many alternatives of each token are told."""
Heard = tuple[int, News]
"""Of which of several asks, and what is new of it."""
Scored = tuple[list[float], list[Alternatives]]
"""Of all tokens but the first: logarithms of their probabilities, and the most probable ones."""
_Listener = Callable[[News | None], None]


class EngineThread:
    """An engine that steps while anything waits for it."""

    def __init__(self, engine: Engine, concurrent: int) -> None:
        """Args: the engine; most texts that are continued or wait at a time."""
        self.engine, self._concurrent = engine, concurrent
        self._listeners: dict[Ticket, _Listener] = {}
        self._scores: deque[tuple[Sequence[int], int, Future[Scored]]] = deque()
        self._wake = threading.Condition()
        self._open = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def __enter__(self) -> "EngineThread":
        """Begin to step."""
        self._open = True
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the step that is being taken end, then no other."""
        with self._wake:
            self._open = False
            self._wake.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether requests are answered."""
        return self._open and self._thread.is_alive()

    @contextlib.asynccontextmanager
    async def answers(self, asks: Sequence[Ask]) -> AsyncIterator[AsyncIterator[Heard]]:
        """Let the engine continue prompts side by side; what is left of it ends with the context.

        Yields:
            what gives the pieces as they come, to the end of each.

        Raises:
            InputError: a prompt leaves no room.
            Refusal: too many texts are continued already, or the engine has failed.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, News | None]]()
        tickets: list[Ticket] = []

        def hear(number: int) -> _Listener:
            def listen(new: News | None) -> None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(queue.put_nowait, (number, new))

            return listen

        async def pieces() -> AsyncIterator[Heard]:
            going_on = len(tickets)
            while going_on:
                number, new = await queue.get()
                if new is None:
                    raise failed()
                going_on -= new.finish is not None
                yield number, new

        try:
            with self._wake:
                self._check(len(asks))
                for number, ask in enumerate(asks):
                    ticket = self.engine.submit(*ask)
                    tickets.append(ticket)
                    self._listeners[ticket] = hear(number)
                self._wake.notify()
            yield pieces()
        except EngineFull as error:
            raise too_many(str(error)) from error
        finally:
            self._forget(tickets)

    async def score(self, tokens: Sequence[int], alternatives: int) -> Scored:
        """Tell how probable all tokens but the first are.

        Args:
            tokens: of a text, with what stands before it.
            alternatives: how many of the most probable tokens are told for each place.

        Raises:
            InputError: there are more than the model has positions.
            Refusal: too many texts are continued already, or the engine has failed.
        """
        future: Future[Scored] = Future()
        with self._wake:
            self._check(1)
            self._scores.append((tokens, alternatives, future))
            self._wake.notify()
        return await asyncio.wrap_future(future)

    def _check(self, more: int) -> None:
        if not self.alive:
            raise failed()
        if len(self._listeners) + len(self._scores) + more > self._concurrent:
            raise too_many(
                f"{self._concurrent} texts are continued or wait at most; try again later."
            )

    def _forget(self, tickets: Sequence[Ticket]) -> None:
        with self._wake:
            for ticket in tickets:
                self._listeners.pop(ticket, None)
                self.engine.cancel(ticket)

    def _work(self) -> None:
        try:
            while self._wait():
                self._score()
                for new in self.engine.step():
                    with self._wake:
                        listener = self._listeners.get(new.ticket)
                        if new.finish:
                            self._listeners.pop(new.ticket, None)
                    if listener:
                        listener(new)
        finally:
            with self._wake:
                self._open = False
                for listener in self._listeners.values():
                    listener(None)
                for *_, future in self._scores:
                    with contextlib.suppress(InvalidStateError):  # nobody waits for it
                        future.set_exception(failed())
                self._listeners.clear()
                self._scores.clear()

    def _wait(self) -> bool:
        """Wait until there is something to do; tell whether it is to be done."""
        with self._wake:
            self._wake.wait_for(lambda: self._listeners or self._scores or not self._open)
            return self._open

    def _score(self) -> None:
        with self._wake:
            waiting = self._scores[0] if self._scores else None
        if waiting is None:
            return
        tokens, alternatives, future = waiting
        if future.set_running_or_notify_cancel():
            try:
                found = self.engine.score(tokens, alternatives)
            except InputError as error:
                future.set_exception(error)
            except EngineFull as error:
                future.set_exception(too_many(str(error)))
            else:
                future.set_result(found)
        with self._wake:
            self._scores.popleft()


def failed() -> Refusal:
    """Return what is said when no engine answers."""
    return Refusal(503, "The server is ending, or its engine has failed.", "unavailable")
