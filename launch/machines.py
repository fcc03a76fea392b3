"""Machines by their names."""

from pathlib import Path

from fugaku_jax.errors import InputError
from fugaku_jax.tofu.machine import Machine, read_machine

MACHINES = Path(__file__).parent.parent / "configs" / "machines"


def load_machine(name: str) -> Machine:
    """Read `configs/machines/NAME.toml`, or the file that a path ending in `.toml` names.

    Raises:
        InputError: there is no such machine, and the sentence lists those that are; or as
            `read_machine`.
    """
    if name.endswith(".toml"):
        return read_machine(Path(name))
    machines = sorted(path.stem for path in MACHINES.glob("*.toml"))
    if name not in machines:
        raise InputError(
            f"{name!r} is no machine; there are {', '.join(machines)}, or give a file (.toml)."
        )
    return read_machine(MACHINES / f"{name}.toml")
