"""The project's Python files as syntax trees, and what can be read off them at once."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "fugaku_jax"


@dataclass(frozen=True)
class Module:
    """A file of Python."""

    name: str
    """As it is imported: `fugaku_jax.layout.mesh`; files of no package as `launch/train.py`."""
    path: Path
    tree: ast.Module
    n_lines: int
    """As `wc -l` counts them."""

    @property
    def room(self) -> str:
        """The package within ours that it belongs to, or its own name if it lies in none."""
        return room_of(self.name)

    def imported(self) -> Iterator[str]:
        """Name the modules of ours that it imports, wherever in the file that stands.

        `from fugaku_jax.report import curves` may name a module or something in one: it gives both.
        """
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (each.name for each in node.names if is_ours(each.name))
            elif isinstance(node, ast.ImportFrom) and node.module and is_ours(node.module):
                yield from [node.module] if node.module != PACKAGE else []
                yield from (f"{node.module}.{each.name}" for each in node.names)


def top_level(module: Module) -> Iterator[str]:
    """Name the first part of everything that a module imports: `jax` of `jax.numpy`."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (each.name.split(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def strings(module: Module) -> set[str]:
    """Return the strings that stand in a module's code."""
    found = (node.value for node in ast.walk(module.tree) if isinstance(node, ast.Constant))
    return {each for each in found if isinstance(each, str)}


def read_modules(root: Path, *folders: str) -> list[Module]:
    """Parse all Python files below folders of a checkout, by default those of the package."""
    found = []
    for folder in folders or (PACKAGE,):
        for path in sorted((root / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            place = path.relative_to(root)
            parts = place.with_suffix("").parts
            name = str(place)
            if folder == PACKAGE:
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Module(name, path, ast.parse(text), text.count("\n")))
    return found


def is_ours(module: str) -> bool:
    """Tell whether a module is the package or in it, by its name."""
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def room_of(module: str) -> str:
    """Return the room of a module by its name: `layout` of `fugaku_jax.layout.mesh`."""
    return module.removeprefix(f"{PACKAGE}.").split(".")[0]


def reached(modules: list[Module], name: str) -> list[Module]:
    """Return what is loaded with a module: it, and what it imports directly or through others."""
    known = {module.name: module for module in modules}
    found, left = {}, [name]
    while left:
        name = left.pop()
        if name in known and name not in found:
            found[name] = known[name]
            left += [name.rpartition(".")[0], *known[name].imported()]
    return list(found.values())


def room_imports(modules: list[Module]) -> dict[tuple[str, str], list[str]]:
    """Return which rooms import which others, and the modules that do."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for module in modules:
        for other in module.imported():
            if room_of(other) != module.room:
                found[module.room, room_of(other)].append(f"{module.name} -> {other}")
    return dict(found)


def functions(module: Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Give every function of a module with its name, those within others too."""

    def within(node: ast.AST, prefix: str) -> Iterator:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                if not isinstance(child, ast.ClassDef):
                    yield name, child
                yield from within(child, f"{name}.")
            else:
                yield from within(child, prefix)

    return within(module.tree, "")


def longest_function(modules: list[Module]) -> tuple[int, str]:
    """Return the lines of the longest function, from `def` to its last, and its name."""
    return max(
        (node.end_lineno - node.lineno + 1, f"{module.name}.{name}")
        for module in modules
        for name, node in functions(module)
    )


def longest_file(modules: list[Module]) -> tuple[int, str]:
    """Return the lines of the longest file, and its name."""
    return max((module.n_lines, module.name) for module in modules)


def repeated_classes(modules: list[Module]) -> dict[str, list[str]]:
    """Return the names that more than one class has, and the modules that have them."""
    found: dict[str, list[str]] = defaultdict(list)
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(module.name)
    return {name: places for name, places in sorted(found.items()) if len(places) > 1}
