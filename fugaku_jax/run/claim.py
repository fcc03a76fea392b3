"""A run directory, checked by all processes of a run and then held by them for a session."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fugaku_jax.cluster.decisions import wait_for_all
from fugaku_jax.cluster.processes import is_writer
from fugaku_jax.config import Config
from fugaku_jax.data.builtin import open_store
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError
from fugaku_jax.run.checkpoint_folder import check_history, named_steps
from fugaku_jax.run.data_order import order_of_run
from fugaku_jax.run.identity import (
    Start,
    check_marks,
    check_run_dir,
    check_tokenizer,
    check_vocabulary,
    claim_run_dir,
    read_ledger,
    run_identity,
)
from fugaku_jax.run.lock import run_lock
from fugaku_jax.run.refusals import refusals


def check_run(config: Config, run_dir: Path, start: Start | None) -> Store:
    """Refuse a run that its directory or its store does not fit; nothing is written.

    Args:
        config: the run.
        run_dir: its directory.
        start: the weights that its first session starts from; random ones if not given.

    Returns:
        the store that the run reads.

    Raises:
        InputError: configuration, store, directory and weights do not fit each other.
    """
    check_run_dir(run_dir, config)
    check_history(run_dir, config, read_ledger(run_dir), has_start=start is not None)
    if config.tuning.method != "full" and start is None and not named_steps(run_dir):
        raise InputError(
            f"tuning.method is {config.tuning.method}, which needs a trained model, and {run_dir} "
            "holds none; begin with one by `launch/finetune.py RECIPE --from RUN_OR_HF_DIR …`."
        )
    store = open_store(config.data.store)
    check_tokenizer(run_dir, store, start)
    check_vocabulary(config, store, start)
    check_marks(config, store)
    patience = config.training.patience
    if patience and not any(each.validation.tokens for each in store.sets):
        raise InputError(
            f"training.patience is {patience}, but {store.url} holds nothing out, so no step is "
            "known to be better than another; hold something out, or set it to 0."
        )
    order_of_run(run_dir, config, store)
    return store


@contextmanager
def held_run(config: Config, run_dir: Path, store: Store, start: Start | None) -> Iterator[None]:
    """Hold a run's directory, and have it say whose it is; arguments as for `check_run`.

    All processes must come here; one of them locks and writes.

    Raises:
        InputError: another program holds it, it became another run's, or it cannot be written.
        RunError: the operating system refuses something while it is held.
    """
    # Nobody writes before all have found the directory as it was; then one does.
    wait_for_all("checked")
    with ExitStack() as stack:
        stack.enter_context(refusals(run_dir))
        if is_writer():
            stack.enter_context(run_lock(run_dir))
            imported = {"imported": start.origin} if start else {}
            claim_run_dir(run_dir, config, store, run_identity(config, store) | imported)
        wait_for_all("claimed")
        yield
