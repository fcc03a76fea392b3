"""Which blocks of the cache hold which tokens, and who uses them.

A block that is full is found again by its tokens and all before them, so rows that begin alike have
blocks in common; or by its first tokens alone, to be copied. Blocks that nobody uses keep what they
hold until they are needed; the one that was used longest ago goes first.
"""

from collections import OrderedDict
from collections.abc import Sequence

Content = tuple[int, tuple[int, ...]]
"""A full block's tokens, and the number of what stands before them; 0 for nothing."""


class BlockPool:
    """The blocks of a cache. Block 0 is nobody's: what is never looked at is written there."""

    def __init__(self, blocks: int, size: int) -> None:
        """Args: how many blocks there are, block 0 left out; tokens of each."""
        self.blocks, self.size = blocks, size
        self._empty = list(range(blocks, 0, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._users = [0] * (blocks + 1)
        self._found: dict[Content, int] = {}
        self._beginnings: dict[Content, int] = {}
        self._unwritten: list[int] = []
        self._contents: dict[int, Content] = {}
        self._numbers: dict[int, int] = {0: 0}
        self._next_number = 1

    @property
    def free(self) -> int:
        """How many blocks nobody uses."""
        return len(self._empty) + len(self._idle)

    def needed(self, tokens: int) -> int:
        """Return how many blocks so many tokens fill."""
        return -(-tokens // self.size)

    def find(self, before: int, tokens: Sequence[int]) -> int | None:
        """Return the full block that holds these tokens after block `before`; 0 for a start."""
        return self._found.get((self._numbers[before], tuple(tokens)))

    def beginning(self, before: int, tokens: Sequence[int]) -> tuple[int, int]:
        """Return a written block after block `before` that begins as these tokens do, and how many
        it has in common with them; nothing is common if there is none.
        """
        for count in range(min(len(tokens), self.size - 1), 0, -1):
            block = self._beginnings.get((self._numbers[before], tuple(tokens[:count])))
            if block is not None:
                return block, count
        return 0, 0

    def publish(self, block: int, before: int, tokens: Sequence[int]) -> None:
        """Let others find a full block, unless another one holds the same."""
        content = self._numbers[before], tuple(tokens)
        # One that holds the same counts as this one for what stands behind it.
        same = self._found.setdefault(content, block)
        if same == block:
            self._numbers[block], self._contents[block] = self._next_number, content
            self._next_number += 1
            self._unwritten.append(block)
        else:
            self._numbers[block] = self._numbers[same]

    def written(self) -> None:
        """Let what was published be copied: its tokens are in the cache by now."""
        for block in self._unwritten:
            for beginning in self._beginnings_of(block):
                self._beginnings[beginning] = block
        self._unwritten.clear()

    def take(self, count: int) -> list[int] | None:
        """Return so many blocks, for one user; None if there are not so many."""
        if count > self.free:
            return None
        taken = [self._empty.pop() if self._empty else self._evicted() for _ in range(count)]
        for block in taken:
            self._users[block] = 1
        return taken

    def share(self, block: int) -> None:
        """Count one user more."""
        self._users[block] += 1
        self._idle.pop(block, None)

    def release(self, blocks: Sequence[int]) -> None:
        """Count one user less of each; a row's blocks stand in its order."""
        for block in reversed(blocks):  # what stands behind is of no use without what is before
            self._users[block] -= 1
            if self._users[block]:
                continue
            if block in self._contents:
                self._idle[block] = None
            else:
                self._numbers.pop(block, None)
                self._empty.append(block)

    def _evicted(self) -> int:
        block, _ = self._idle.popitem(last=False)
        for beginning in self._beginnings_of(block):
            if self._beginnings.get(beginning) == block:
                del self._beginnings[beginning]
        del self._found[self._contents.pop(block)], self._numbers[block]
        return block

    def _beginnings_of(self, block: int) -> list[Content]:
        before, tokens = self._contents.get(block, (0, ()))
        return [(before, tokens[:count]) for count in range(1, len(tokens))]
