"""What threads make of many items, in the items' order, with few of them in memory."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
) -> Iterator[Result]:
    """`pool.map` that has no more than so many items in flight, one more while it reads."""
    running: collections.deque[Future[Result]] = collections.deque()
    for item in items:
        running.append(pool.submit(function, item))
        if len(running) > ahead:
            yield running.popleft().result()
    while running:
        yield running.popleft().result()
