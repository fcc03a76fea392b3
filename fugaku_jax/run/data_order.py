"""The order in which a run reads its store, from what the run directory says of it."""

from pathlib import Path

from fugaku_jax.config import Config
from fugaku_jax.data.order import SampleOrder
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.json_types import typed
from fugaku_jax.run.configuration import read_config
from fugaku_jax.run.going_back import passed_over
from fugaku_jax.run.identity import LEDGER_FILE, open_run_store, read_ledger


def open_run_order(run_dir: Path, place: str | None = None) -> tuple[Store, SampleOrder, int]:
    """Open the store that a run reads, with the order of its samples and the number of its steps.

    Args:
        run_dir: the run.
        place: folder or URL of the store, if it is no longer where the run found it.

    Raises:
        InputError: it is no run, it has read no store yet, or the store is not the one it read.
    """
    config = read_config(run_dir)
    ledger = read_ledger(run_dir)
    try:
        sha256, order = ledger["store_sha256"], ledger["order"]
        sizes = {n: typed(int, order[n], n) for n in ("sequence_length", "batch_size", "seed")}
    except (KeyError, TypeError):
        raise InputError(
            f"{run_dir / LEDGER_FILE} does not say what the run reads, and in which order: "
            "it is not whole, or the run was imported and has not been trained yet."
        ) from None
    store = open_run_store(run_dir, config, place)
    if store.sha256 != sha256:
        raise InputError(
            f"{store.url} is not the store that {run_dir} read: its sha256 is "
            f"{store.sha256[:12]}, that of the run's {str(sha256)[:12]}; give that one by --store."
        )
    order = SampleOrder.of_store(store, **sizes, passed_over=passed_over(run_dir))
    return store, order, config.training.steps


def stored_data(run_dir: Path) -> tuple[str, str | None]:
    """Return folder or URL of the store that a run reads, and its root; None if it has read none.

    Raises:
        InputError: it is no run, or its ledger cannot be read.
    """
    config = read_config(run_dir)
    return config.data.store, read_ledger(run_dir).get("store_sha256")


def order_of_run(run_dir: Path, config: Config, store: Store) -> SampleOrder:
    """Return the order in which a run reads its store, or will.

    Args:
        run_dir: the run, which may not be there yet.
        config: of the run.
        store: what it reads.

    Raises:
        InputError: the store has too few tokens for it, or the ledger cannot be read.
    """
    return SampleOrder.of_store(
        store,
        config.model.sequence_length,
        config.training.batch_size,
        config.data.seed,
        passed_over(run_dir),
    )
