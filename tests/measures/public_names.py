"""The package's public definitions: which tell no shapes, and which nobody uses."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from source_code import Module

_ARRAYS = ("Array", "ArrayLike", "ndarray")
_ANYTHING = ("Any", "PyTree")


def without_shapes(modules: list[Module]) -> dict[str, list[str]]:
    """Name the public functions and methods whose signature leaves shapes open.

    Returns:
        under `array` those with a parameter or result annotated as an array outside a type of
        jaxtyping, `Array` for `Float[Array, "B T D"]`; under `anything` those of the others with
        one that is `Any` or holds a `PyTree`, which say less still.
    """
    found: dict[str, list[str]] = {"array": [], "anything": []}
    for module in modules:
        for name, node in _public(module):
            if isinstance(node, ast.FunctionDef):
                kinds = {kind for each in _annotations(node) for kind in _open(each, whole=True)}
                kind = next((each for each in ("array", "anything") if each in kinds), None)
                if kind:
                    found[kind].append(f"{module.name}.{name}")
    return found


def annotations(modules: list[Module]) -> dict[str, int]:
    """Count all annotations, private ones too, that tell a shape, and those that hold an `Any`."""
    found = {"with shapes": 0, "with Any": 0}
    for module in modules:
        nodes = list(ast.walk(module.tree))
        each = [
            note
            for node in nodes
            if isinstance(node, ast.FunctionDef)
            for note in _annotations(node)
        ]
        each += [node.annotation for node in nodes if isinstance(node, ast.AnnAssign)]
        for annotation in each:
            parts = list(ast.walk(annotation))
            found["with shapes"] += any(_has_shape(part) for part in parts)
            found["with Any"] += any(getattr(part, "id", "") == "Any" for part in parts)
    return found


def unused(root: Path, modules: list[Module], programs: list[Module]) -> list[str]:
    """Name the public definitions that neither the package, nor programs, nor notebooks use.

    What a module defines is used where it names it itself, outside the definition, or another file
    imports it. It or a method is used where anything takes an attribute of that name, so that one
    of two methods of the same name may be unused and not told.
    """
    written = [*(root / "notebooks").glob("*.ipynb"), *root.glob("fugaku_jax/**/*.jinja")]
    texts = [path.read_text(encoding="utf-8") for path in written]
    words = set(re.findall(r"\w+", "\n".join(texts)))
    attributes: Counter[str] = Counter()
    imported = set()
    for module in modules + programs:
        attributes += _attributes(module.tree)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ImportFrom):
                imported |= {(node.module, each.name) for each in node.names}
    found = []
    for module in modules:
        names = _names(module.tree)
        for name, node in _public(module):
            word = name.split(".")[-1]
            uses = attributes[word] - _attributes(node)[word]
            if "." not in name:
                uses += names[word] - _names(node)[word] + ((module.name, word) in imported)
            if not uses and word not in words:
                found.append(f"{module.name}.{name}")
    return found


def _public(module: Module) -> Iterator[tuple[str, ast.stmt]]:
    """Give functions, classes, constants, and the methods of classes, whose names are public."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = [each.id for each in targets if isinstance(each, ast.Name)]
            yield from ((name, node) for name in named if not name.startswith("_"))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            for child in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
                    yield f"{node.name}.{child.name}", child


def _annotations(node: ast.FunctionDef) -> list[ast.expr]:
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [each for each in (arguments.vararg, arguments.kwarg) if each]
    return [each for each in (*(a.annotation for a in every), node.returns) if each is not None]


def _open(node: ast.AST, whole: bool = False) -> Iterator[str]:
    """Give what an annotation leaves open; `whole` says that it is all of the annotation."""
    name = getattr(node, "id", getattr(node, "attr", None))
    if isinstance(node, ast.Subscript):
        base = getattr(node.value, "id", getattr(node.value, "attr", ""))
        if base in _ANYTHING:
            yield from ("anything",) if any(_open(node.slice, whole=True)) else ()
        elif _has_shape(node):
            return
        yield from _open(node.slice) if base not in _ANYTHING else ()
    elif name in _ARRAYS:
        yield "array"
    elif name == "PyTree" or (name == "Any" and whole):
        yield "anything"
    else:
        for child in ast.iter_child_nodes(node):
            yield from _open(child)


def _has_shape(node: ast.AST) -> bool:
    """Tell whether it is a type of jaxtyping: `Float[Array, "B T D"]`."""
    if not (isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple)):
        return False
    if len(node.slice.elts) != 2:
        return False
    array, shape = node.slice.elts
    is_text = isinstance(shape, ast.Constant) and isinstance(shape.value, str)
    is_array = getattr(array, "id", getattr(array, "attr", "")) in _ARRAYS
    return is_array and (is_text or isinstance(shape, ast.JoinedStr))


def _attributes(tree: ast.AST) -> Counter[str]:
    return Counter(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))


def _names(tree: ast.AST) -> Counter[str]:
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
    return Counter(node.id for node in found if isinstance(node.ctx, ast.Load))
