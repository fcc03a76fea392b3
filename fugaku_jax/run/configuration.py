"""The configuration of a run, as its directory keeps it."""

from pathlib import Path

from fugaku_jax.config import Config, config_from_dict
from fugaku_jax.errors import InputError
from fugaku_jax.json_file import read_json

CONFIG_FILE = "config.json"
LEDGER_FILE = "ledger.json"
"""What the run reads and where its weights came from (`run/identity.py`)."""


def read_config(run_dir: Path) -> Config:
    """Read a run's configuration.

    Raises:
        InputError: there is none, or it is not one of this version's.
    """
    path = run_dir / CONFIG_FILE
    if not path.exists():
        raise InputError(f"{run_dir} is no run: it has no {CONFIG_FILE}.")
    fields = read_json(path)
    try:
        return config_from_dict(fields)
    except InputError as error:
        raise InputError(f"{path} cannot be read as a configuration: {error}") from error
