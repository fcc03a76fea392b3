"""How much of the project a stranger has to read, and what cannot be seen in a signature.

python tests/measures/measures.py
python tests/measures/measures.py --json
python tests/measures/measures.py --root ANOTHER_CHECKOUT    # which has an environment of its own

Counted are:
- the files, and their lines as `wc -l` has them, whose functions run to lay out, make and trace a
  training step of a shrunken `tiny`, on one device and on a mesh with every kind of parallelism
  (`step_trace.py` says which calls those are);
- public functions and methods whose signature leaves the shapes of arrays open, and all annotations
  that tell a shape or hold an `Any`;
- the longest function and the longest file of the package;
- hidden inputs: values of modules that functions change, and functions that read the environment;
- names that more than one class has; public definitions that only tests use, or nobody.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import hidden_inputs
import public_names
import source_code

ROOT = Path(__file__).parents[2]
_SHRUNKEN = (
    *("--training.steps", "1", "--training.batch-size", "4", "--training.micro-batches", "2"),
    *("--training.sample-tokens", "0", "--training.validation-tokens", "64"),
    *("--model.n-layers", "2", "--model.d-model", "32", "--model.sequence-length", "32"),
)
_MESH = (
    *("--emulate-devices", "16", "--mesh.data", "2", "--mesh.tensor", "2"),
    *("--mesh.context", "2", "--mesh.pipeline", "2", "--mesh.schedule", "1f1b"),
)
STEPS = {"one device": (), "data, tensor, context and pipeline of 2": _MESH}


def main() -> None:
    """Print the measures of a checkout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    root = args.root.resolve()
    found = of_the_source(root)
    found["files of a step"] = {name: files_of_a_step(root, mesh) for name, mesh in STEPS.items()}
    print(json.dumps(found, indent=2) if args.json else "\n".join(_lines(found)))


def of_the_source(root: Path) -> dict[str, Any]:
    """Return what can be read off the files of a checkout, by name."""
    modules = source_code.read_modules(root)
    programs = source_code.read_modules(root, "launch", "configs")
    return {
        "public names without shapes": public_names.without_shapes(modules),
        "annotations": public_names.annotations(modules),
        "longest function": source_code.longest_function(modules),
        "longest file": source_code.longest_file(modules),
        "values of modules that change": hidden_inputs.rebound(modules),
        "functions that read the environment": hidden_inputs.environment_reads(modules),
        "class names used twice": source_code.repeated_classes(modules),
        "used by nobody": public_names.unused(root, modules, programs),
    }


def files_of_a_step(root: Path, arguments: tuple[str, ...] = ()) -> dict[str, int]:
    """Trace a step in a process of its own, and return the files it takes, with their lines.

    Args:
        root: of a checkout.
        arguments: what `launch/train.py` is given besides; a step on one device without them.
    """
    with tempfile.TemporaryDirectory(prefix="measures-") as folder:
        out = Path(folder, "files.json")
        program = Path(__file__).with_name("step_trace.py")
        command = [root / ".venv/bin/python", program, root, out, *_SHRUNKEN, *arguments]
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
        # It leaves no trace there, and what is kept of compiling is no part of a step.
        environment = {"XLA_FLAGS": flags, "PYTHONDONTWRITEBYTECODE": "1"}
        environment["FUGAKU_JAX_COMPILED"] = "off"
        done = subprocess.run(
            [*map(str, command), "--run-dir", f"{folder}/run"],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"The step could not be traced:\n{done.stderr}")
        return json.loads(out.read_text())


def _lines(found: dict[str, Any]) -> list[str]:
    """Write the measures as people read them: a figure, and what it consists of."""
    lines = []
    for name, files in found["files of a step"].items():
        lines.append(f"one step, {name}: {len(files)} files, {sum(files.values()):,} lines")
        lines += [f"  {count:4} {file}" for file, count in files.items()]
    for kind, names in found["public names without shapes"].items():
        lines.append(f"public names whose shapes are open ({kind}): {len(names)}")
    lines += [f"annotations {kind}: {count}" for kind, count in found["annotations"].items()]
    for name in ("longest function", "longest file"):
        n_lines, where = found[name]
        lines.append(f"{name}: {n_lines} lines, {where}")
    rest = ("values of modules that change", "functions that read the environment")
    for name in (*rest, "class names used twice", "used by nobody"):
        lines.append(f"{name}: {len(found[name])}")
        lines += [f"  {each}" for each in found[name]]
    return lines


if __name__ == "__main__":
    main()
