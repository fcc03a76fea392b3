"""Which files' functions run to make one training step: `python step_trace.py ROOT OUT ARG…`.

Runs `launch/train.py tiny ARG…` of the checkout ROOT in this process, with a profiler that sees
every call. A file of the package counts if one of its functions runs while the layout, the state or
the step is made, or while JAX traces the step: below a call of one of `ENTRIES` or of a function
that is defined in `make_train_step`. What runs at import (bodies of modules and classes), what a
library generates (the methods of dataclasses) and what the loop does around the step do not count.
Saves the files' paths in ROOT and their lines as JSON.
"""

import inspect
import json
import os
import runpy
import sys
from pathlib import Path
from types import CodeType, FrameType

ENTRIES = ("set_mesh", "make_layout", "Layout.pipeline", "init_state", "make_train_step")
"""The first was what is now the second and third."""


def main() -> None:
    """Train a step and save what was seen."""
    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    # What `launch/train.py` would start itself again for, which would lose the profiler.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    sys.argv = ["train.py", "tiny", *sys.argv[3:]]
    sys.path[:0] = [str(root / "launch"), str(root)]
    program = runpy.run_path(str(root / "launch/train.py"), run_name="train")
    package = f"{root / 'fugaku_jax'}{os.sep}"
    seen: set[str] = set()
    depth = 0

    def watch(frame: FrameType, event: str, _: object) -> None:
        nonlocal depth
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if not code.co_filename.startswith(package):
            return
        if _is_entry(code):
            depth += 1 if event == "call" else -1
        if (depth or _is_entry(code)) and code.co_flags & inspect.CO_OPTIMIZED:
            seen.add(code.co_filename)

    sys.setprofile(watch)
    try:
        code = program["main"]()
    finally:
        sys.setprofile(None)
    assert code in (0, None), code
    lines = {path: Path(path).read_bytes().count(b"\n") for path in sorted(seen)}
    out.write_text(json.dumps({os.path.relpath(path, root): n for path, n in lines.items()}))


def _is_entry(code: CodeType) -> bool:
    return code.co_qualname in ENTRIES or code.co_qualname.startswith("make_train_step.<locals>.")


if __name__ == "__main__":
    main()
