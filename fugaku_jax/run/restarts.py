"""Whether a session that has ended is to be followed by another; job scripts ask after each.

A session that was stopped but saved is, and so is one that a fault ended: a machine that died, a
rank that hung. If one after another leaves no newer checkpoint, something stands in the way that
does not go by itself.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fugaku_jax.json_file import read_json
from fugaku_jax.json_types import typed
from fugaku_jax.run.checkpoint_folder import saved_steps
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.run.whole_file import write_json

RESTARTS_FILE = "restarts.json"
MOST_FRUITLESS = 3
"""Sessions in a row without a newer checkpoint after which no more are started."""
DONE, WRONG_INPUT = 0, 2


@dataclass(frozen=True)
class _Sessions:
    """What is known of the sessions that have ended so far."""

    step: int = 0
    """The newest checkpoint after the last one."""
    fruitless: int = 0
    """How many in a row have left no newer one."""


def why_not_go_on(run_dir: Path, code: int, most_fruitless: int = MOST_FRUITLESS) -> str:
    """Note that a session has ended; return why no other is to follow, or nothing if one is.

    Args:
        run_dir: the run.
        code: the exit code of its program.
        most_fruitless: sessions in a row that may leave no newer checkpoint.

    Raises:
        InputError: what was noted of earlier sessions cannot be read.
    """
    path = run_dir / RESTARTS_FILE
    if code == DONE:
        path.unlink(missing_ok=True)
        return "the run is done"
    if code == WRONG_INPUT:
        return "its input is wrong, and would be again"
    if not (run_dir / CONFIG_FILE).exists():
        return f"there is no run in {run_dir} to go on with"
    before = typed(_Sessions, read_json(path), str(path)) if path.exists() else _Sessions()
    step = max(saved_steps(run_dir), default=0)
    now = _Sessions(step, 0 if step > before.step else before.fruitless + 1)
    try:
        write_json(path, dataclasses.asdict(now))
    except OSError as error:
        return f"{path} cannot be written ({error.strerror}), by which sessions in vain are counted"
    if now.fruitless < most_fruitless:
        return ""
    return f"{now.fruitless} sessions in a row have left no checkpoint after that of step {step}"
