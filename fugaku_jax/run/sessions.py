"""What the sessions of a run were computed on, as `sessions.json` in its directory says it."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from fugaku_jax.json_file import read_json
from fugaku_jax.json_types import typed
from fugaku_jax.processor import processor_name
from fugaku_jax.run.metrics import replace_file

SESSIONS_FILE = "sessions.json"


@dataclass(frozen=True)
class Session:
    """What a session ran on."""

    steps_before: int
    """Steps taken when it began."""
    processor: str
    """Name of the processor of the process that writes."""
    processes: int
    """Processes of the run."""
    devices: int
    """Devices of all processes."""


def record_session(run_dir: Path, first: int, processes: int, devices: int) -> None:
    """Write down what this session runs on.

    Args:
        run_dir: the run.
        first: steps taken before it; sessions that began there or later have left nothing.
        processes: of the run.
        devices: of all processes.
    """
    session = Session(first, processor_name(), processes, devices)
    sessions = [dataclasses.asdict(each) for each in [*read_sessions(run_dir, first), session]]
    text = json.dumps({"sessions": sessions}, ensure_ascii=False, indent=2)
    replace_file(run_dir / SESSIONS_FILE, lambda file: file.write(f"{text}\n".encode()))


def read_sessions(run_dir: Path, step: int) -> list[Session]:
    """Return the sessions that led to a step, from the first: none if none was written down.

    Raises:
        InputError: the file cannot be read as what this version writes.
    """
    path = run_dir / SESSIONS_FILE
    if not path.exists():
        return []
    kind = tuple[Session, ...]
    sessions = typed(kind, read_json(path).get("sessions"), f"{path}: sessions")
    return [each for each in sessions if each.steps_before < step]
