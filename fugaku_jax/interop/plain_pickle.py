"""Pickles of plain data, interpreted: nothing is imported, called or set that the file names.

A pickle is a program for a small machine with a stack and a memo. Python's own machine trusts it:
it calls what it names, sets the state of what was already checked, and makes room for any place of
the memo. This one knows the instructions that `torch.save` writes. What a program would have
called is a `Name`, which a function of ours turns into something of ours or into an `Inert`, and a
state is only ever set on a `Namespace`. Each instruction takes a bounded step, and their number is
bounded.
Source: Python, `pickletools.py`; PyTorch, `torch/_weights_only_unpickler.py`.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fugaku_jax.json_types import shown

LARGEST = 16_000_000
"""Most bytes of a pickle; without its tensors that of a large model has a few hundred thousand."""
MOST_STEPS = 1_000_000
"""Most instructions of a pickle; a tensor takes about forty."""
_MOST_PARTS = 16  # of a tuple that is a key
_LONGEST_KEY = 10_000  # characters or bytes
_VALUES = frozenset(
    {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
    | {"SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
    | {"BINBYTES", "SHORT_BINBYTES"}
)
"""Instructions whose argument is the value."""


@dataclass(frozen=True, eq=False)
class Name:
    """Stands for a class or function."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Inert:
    """Stands for an object that is not looked at."""


class Namespace:
    """Stands for `argparse.Namespace`."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        """Its attributes."""


def read_pickle(
    data: bytes,
    called: Callable[[Name, tuple[Any, ...]], Any],
    referred: Callable[[Any], Any],
) -> Any:
    """Return what a pickle describes.

    Lists and dictionaries in it may hold themselves, or one thing twice, as in what was saved.

    Args:
        data: the pickle.
        called: gives what stands for the result of calling a name with arguments; raises if none
            may be called by it.
        referred: gives what stands for a persistent id.

    Raises:
        ValueError: it is damaged, too large, or holds more than plain data.
    """
    if len(data) > LARGEST:
        raise ValueError(f"a pickle has {len(data):,} bytes, {LARGEST:,} at most do")
    machine = _Machine(called, referred)
    for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if step == MOST_STEPS:
            raise ValueError(f"a pickle has more than {MOST_STEPS:,} instructions")
        try:
            machine.step(opcode.name, argument)
        except (IndexError, KeyError):
            raise ValueError(f"{opcode.name} takes what is not there") from None
    (result,) = machine.stack
    return result


class _Machine:
    def __init__(
        self,
        called: Callable[[Name, tuple[Any, ...]], Any],
        referred: Callable[[Any], Any],
    ) -> None:
        self.called, self.referred = called, referred
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _STEPS:
            _STEPS[name](self, argument)
        else:
            raise ValueError(f"{name} is no instruction that torch.save writes")

    def since_mark(self) -> list[Any]:
        above, self.stack = self.stack, self.marked.pop()
        return above

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def tuple_of(self, count: int | None) -> None:
        parts = [self.stack.pop() for _ in range(count or 0)][::-1]
        parts = self.since_mark() if count is None else parts
        self.stack.append(tuple(parts))

    def append(self, values: list[Any]) -> None:
        into = self.stack[-1]
        if type(into) is not list:
            raise ValueError(f"something is appended to {shown(into)}, which is no list")
        into += values

    def set_items(self, items: list[Any]) -> None:
        into = self.stack[-1]
        if type(into) is not dict:
            raise ValueError(f"an item is set in {shown(into)}, which is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not _is_key(key):
                raise ValueError(f"{shown(key)} is the key of a dictionary")
            into[key] = value

    def name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name is no string")
        self.stack.append(Name(module, name))

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Name or type(arguments) is not tuple:
            raise ValueError(f"{shown(function)} is called, which is no name")
        self.stack.append(self.called(function, arguments))

    def set_state(self, _: Any) -> None:
        """Take the attributes of a namespace; drop those of what is not looked at."""
        state, into = self.stack.pop(), self.stack[-1]
        if type(into) is Namespace:
            if type(state) is not dict:
                raise ValueError(f"the state of a namespace is {shown(state)}")
            into.values = state
        elif type(into) not in (Inert, dict):  # a state dictionary has `_metadata`
            raise ValueError(f"the state of {shown(into)} is set")

    def put(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]


def _is_key(value: Any) -> bool:
    """Tell whether a value may be a key: one that is hashed and compared in a bounded time."""
    if type(value) is tuple:
        return len(value) <= _MOST_PARTS and all(
            type(each) is not tuple and _is_key(each) for each in value
        )
    if type(value) is int:
        return abs(value) < 2**63
    if type(value) in (str, bytes):
        return len(value) <= _LONGEST_KEY
    return value is None or type(value) in (bool, float, Name, Inert)


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda *_: None,
    "FRAME": lambda *_: None,
    "STOP": lambda *_: None,
    "MARK": _Machine.mark,
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "TUPLE": _Machine.tuple_of,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(
        [machine.stack.pop(-2), machine.stack.pop()],
    ),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "GLOBAL": lambda machine, names: machine.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(machine.stack.pop(-2), machine.stack.pop()),
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.set_state,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.referred(machine.stack.pop())),
}
