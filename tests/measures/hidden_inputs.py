"""What decides a result and is no argument: values of modules that change, and the environment."""

import ast
from collections.abc import Iterator

from source_code import Module, functions, is_ours

_CONTAINERS = ("dict", "list", "set", "defaultdict", "deque", "Counter", "OrderedDict")
_STATE = ("ContextVar", "local")
_WRITES = ("add", "append", "clear", "extend", "insert", "pop", "popitem", "remove", "set")
_WRITES += ("setdefault", "update", "discard", "appendleft")
_ENVIRONMENT = ("environ", "getenv", "environb")


def rebound(modules: list[Module]) -> list[str]:
    """Name the values of modules that functions change.

    These are names in a `global` statement; containers, context variables and thread locals of a
    module that its own functions write to; and what is imported from a module of ours, if a
    function assigns to an attribute or an item of it.
    """
    return sorted({f"{module.name}.{name}" for module in modules for name in _changed(module)})


def environment_reads(modules: list[Module]) -> list[str]:
    """Name the functions that read or write the process's environment, and modules that do."""
    found = set()
    for module in modules:
        inside = {}
        for name, node in functions(module):
            inside |= {id(each): name for each in ast.walk(node)}
        for node in ast.walk(module.tree):
            is_read = isinstance(node, ast.Attribute) and node.attr in _ENVIRONMENT
            if is_read and isinstance(node.value, ast.Name) and node.value.id == "os":
                found.add(f"{module.name}.{inside.get(id(node), '<module>')}")
    return sorted(found)


def _changed(module: Module) -> Iterator[str]:
    state = {
        target.id
        for statement in module.tree.body
        if isinstance(statement, ast.Assign | ast.AnnAssign) and _may_change(statement.value)
        for target in getattr(statement, "targets", None) or [statement.target]
        if isinstance(target, ast.Name)
    }
    imported = {
        each.asname or each.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and is_ours(node.module or "")
        for each in node.names
    }
    for _, function in functions(module):
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                yield from node.names
            elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
                yield from _named(node.value, state | imported)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr in _WRITES:
                    yield from _named(node.func.value, state)
            elif isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
                yield from _named(node.value, state | imported)


def _may_change(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        name = getattr(value.func, "id", getattr(value.func, "attr", ""))
        return name in _CONTAINERS + _STATE
    return isinstance(value, ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp)


def _named(node: ast.expr, names: set[str]) -> list[str]:
    return [node.id] if isinstance(node, ast.Name) and node.id in names else []
