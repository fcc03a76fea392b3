"""What a model that is graded has learned from, as far as it is known."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from suffix_index import index_of

from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_shape import is_hf_directory
from fugaku_jax.run.configuration import read_config
from fugaku_jax.run.identity import is_untrained, open_run_store, read_ledger
from fugaku_jax.tracing.contamination import Contamination


@dataclass(frozen=True)
class LearnedFrom:
    """Where it is looked up which items a model has learned from."""

    index: Path | None = None
    """Folder of an index of the run's store, made by `data.py index`; one in your cache, made now
    if it is not there, if not given."""
    store: str | None = None
    """Folder or URL of the run's store, if it is no longer where the run found it."""


def knowledge_of(model: Path, where: LearnedFrom) -> tuple[Callable[[str], bool] | None, str]:
    """Return what tells whether a text stands in what a model has read, and a sentence about that.

    Raises:
        InputError: the store or the index that was named cannot be read.
    """
    if is_hf_directory(model):
        return None, "Contamination is not known: a model directory does not say what it has read."
    if is_untrained(model):
        return None, "Contamination is not known: the run was imported and has read no store."
    store = open_run_store(model, read_config(model), where.store)
    try:
        knows = Contamination(store, index_of(store, where.index))
    except InputError as error:
        if where.index:
            raise
        return None, f"Contamination is not known: {error}"
    before = " What its weights had read before they were imported is not known."
    imported = "imported" in read_ledger(model)
    return knows, "Contaminated is what stands in the run's store." + before * imported
