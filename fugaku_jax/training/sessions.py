"""What the sessions of a run were computed on, as `sessions.json` in its directory says it."""

import json
from pathlib import Path
from typing import Any

import jax

from fugaku_jax.processor import processor_name
from fugaku_jax.training.metrics import replace_file

SESSIONS_FILE = "sessions.json"


def record_session(run_dir: Path, first: int) -> None:
    """Write down what this session runs on.

    Args:
        run_dir: the run.
        first: steps taken before it; sessions that began there or later have left nothing.
    """
    session = {
        "steps_before": first,
        "processor": processor_name(),
        "processes": jax.process_count(),
        "devices": jax.device_count(),
    }
    text = json.dumps([*read_sessions(run_dir, first), session], ensure_ascii=False, indent=2)
    replace_file(run_dir / SESSIONS_FILE, lambda file: file.write(f"{text}\n".encode()))


def read_sessions(run_dir: Path, step: int) -> list[dict[str, Any]]:
    """Return the sessions that led to a step, from the first: none if none was written down."""
    path = run_dir / SESSIONS_FILE
    sessions = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return [each for each in sessions if each["steps_before"] < step]
