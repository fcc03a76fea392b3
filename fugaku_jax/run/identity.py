"""The run directory: whose it is, and that nobody writes another run into it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from jaxtyping import Array, PyTree

from fugaku_jax.config import Config, MeshConfig, flat_fields
from fugaku_jax.data.builtin import open_store
from fugaku_jax.data.store import Store
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.errors import InputError
from fugaku_jax.json_file import read_json
from fugaku_jax.json_types import shown, typed
from fugaku_jax.layout.layout import Layout
from fugaku_jax.models.shape import shaped_like
from fugaku_jax.run.configuration import CONFIG_FILE, LEDGER_FILE, read_config
from fugaku_jax.run.whole_file import is_full, write_json

PASSED_OVER = "passed_over"
"""The ledger's list of the batches that no step reads any more (`run/going_back.py`)."""
TOKENIZER_FILE = "tokenizer.model"
"""The tokenizer that an imported run came with."""

TUNING_FOLDER = "tuning"
"""What a run has of its dialogues, made before its first step."""

_LEFT_BY_A_START = re.compile(r"\.lock|\.(config|ledger)\.json\.\d+\.partial|tuning")
"""Names that a start leaves which is killed before the run is there."""
_LEFT_BY_A_SESSION = ".*.json*.*.partial"
"""Of files that a session writes under the lock; anybody may be drawing a report."""


@dataclass(frozen=True)
class Start:
    """Weights of another project's that a run starts from."""

    parameters: Callable[[Layout], PyTree[Array]]
    """Puts them where a run has them."""
    origin: dict[str, Any]
    """What identifies them, as JSON can hold it; `sha256` is what is compared."""
    tokenizer: Tokenizer | None
    """The tokenizer that came with them."""


FREE_FIELDS = frozenset(
    {
        "training.stop_after",
        "training.spike_deviations",
        "training.most_skipped",
        "training.check_replicas_every",
        "training.repeat_every",
        "training.document_losses",
        "training.stop_before_limit",
        "training.self_test",
        "training.hang_seconds",
        "training.patience",
        "training.validate_every",
        "training.validation_tokens",
        "training.sample_every",
        "training.sample_tokens",
        "training.prompts",
        "checkpoint.every",
        "checkpoint.keep",
        "data.prefetch",
        "data.store",
        "training.micro_batches",
        "training.remat",
    }
    | {f"mesh.{field.name}" for field in fields(MeshConfig)}
)
"""Fields that may change between sessions of a run: they do not change what is learned, but for
the rounding that another mesh or another cut of the batch brings, and what is done about steps that
go wrong. That the store is the same is told by its hash, wherever it lies."""


def check_run_dir(run_dir: Path, config: Config) -> None:
    """Refuse a directory that holds anything but this run, before anything is written.

    An imported run that nobody has trained is any recipe's whose model has its shape.

    Raises:
        InputError: it is a file, holds no run, or holds a run of another configuration, whose
            differing fields are listed.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise InputError(f"--run-dir {run_dir} is a file; give a directory.")
    if not (run_dir / CONFIG_FILE).exists():
        there = run_dir.iterdir() if run_dir.exists() else ()
        if not all(_LEFT_BY_A_START.fullmatch(path.name) for path in there):
            raise InputError(
                f"--run-dir {run_dir} is not empty and holds no run; give another directory."
            )
        return
    found = read_config(run_dir)
    if is_untrained(run_dir):  # beside the model it holds defaults that nobody chose
        found = with_imported_model(config, run_dir)
    there, here = (flat_fields(each.to_dict()) for each in (found, config))
    differing = [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in sorted(here)
        if name not in FREE_FIELDS and there.get(name) != here.get(name)
    ]
    if differing:
        raise InputError(
            f"--run-dir {run_dir} belongs to another configuration: {'; '.join(differing)}; "
            "give another directory, or the same values."
        )


def run_identity(config: Config, store: Store) -> dict[str, Any]:
    """Return what identifies the run's data: the store's roots, and the order's parameters."""
    return {
        "store": store.url,
        "store_sha256": store.sha256,
        "sets": [
            {
                "name": each.name,
                "domain": each.domain,
                "weight": each.weight,
                "tokens": each.train.tokens,
                "tokens_root": each.train.tokens_root,
                "documents_root": each.train.documents_root,
            }
            for each in store.sets
        ],
        "order": {
            "seed": config.data.seed,
            "sequence_length": config.model.sequence_length,
            "batch_size": config.training.batch_size,
        },
    }


def claim_run_dir(run_dir: Path, config: Config, store: Store, ledger: dict[str, Any]) -> None:
    """Write configuration and ledger into the run directory, or check that they are this run's.

    It is done under the run's lock, and may be killed at any point: the configuration comes first,
    since without a ledger it is still this run's, and an imported run's ledger still says so.

    Args:
        ledger: the run's identity.

    Raises:
        InputError: as `check_run_dir`; or the run there has read other data or started from other
            weights, or the directory cannot be written.
    """
    check_run_dir(run_dir, config)
    before = read_ledger(run_dir)
    if before:
        sha256 = before.get("store_sha256", store.sha256)  # an imported run has read none yet
        if sha256 != store.sha256:
            raise InputError(
                f"--run-dir {run_dir} was trained on another store: sha256 "
                f"{sha256[:12]} there, {store.sha256[:12]} in {store.url}; give "
                "another directory, or the same store."
            )
        origins = (each.get("imported", {}).get("sha256") for each in (before, ledger))
        if len(set(origins) - {None}) > 1 or ("imported" in ledger and "imported" not in before):
            raise InputError(
                f"--run-dir {run_dir} was started from other weights than {ledger['imported']}; "
                "give another directory, or the same weights."
            )
        kept = {name: before[name] for name in ("imported", PASSED_OVER) if name in before}
        ledger = kept | ledger
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_json(run_dir / CONFIG_FILE, config.to_dict())
        write_ledger(run_dir, ledger)
        for path in run_dir.glob(_LEFT_BY_A_SESSION):
            path.unlink()
    except OSError as error:
        if is_full(error):
            raise
        raise InputError(f"--run-dir {run_dir} cannot be written: {error}.") from error


def read_ledger(run_dir: Path) -> dict[str, Any]:
    """Return a run's identity; nothing if it was not written down.

    Raises:
        InputError: it says what no version of ours writes.
    """
    path = run_dir / LEDGER_FILE
    ledger = read_json(path) if path.exists() else {}
    origin = ledger.get("imported", {})
    if not isinstance(origin, dict):
        raise InputError(f"{path}: imported is {shown(origin)}, but it must be an object.")
    for values, name, kind in (
        (ledger, "store_sha256", str),
        *((origin, name, str) for name in ("format", "path", "sha256")),
        (origin, "first_token", int | None),
    ):
        if name in values:
            typed(kind, values[name], f"{path}: {name}")
    return ledger


def write_ledger(run_dir: Path, ledger: dict[str, Any]) -> None:
    """Write a run's identity, whole or not at all."""
    write_json(run_dir / LEDGER_FILE, ledger)


def is_untrained(run_dir: Path) -> bool:
    """Tell whether a run was imported and has read no store yet."""
    ledger = read_ledger(run_dir)
    return "imported" in ledger and "store_sha256" not in ledger


def with_imported_model(recipe: Config, run_dir: Path) -> Config:
    """Return a recipe for the model that a run directory was imported with, if it was.

    Raises:
        InputError: the run's configuration cannot be read.
    """
    if "imported" not in read_ledger(run_dir):
        return recipe
    return replace(recipe, model=shaped_like(recipe.model, read_config(run_dir).model))


def check_vocabulary(config: Config, store: Store, start: Start | None = None) -> None:
    """Refuse a store with more tokens than the model knows.

    Args:
        start: what the run is about to start from.

    Raises:
        InputError: it has.
    """
    if store.vocab_size > config.model.vocab_size:
        right = f"give --model.vocab-size {store.vocab_size} or more"
        if start:
            right = "give a store made with the tokenizer of the imported model by --data.store"
        raise InputError(
            f"model.vocab_size is {config.model.vocab_size}, but the tokenizer of {store.url} has "
            f"{store.vocab_size} pieces; {right}."
        )


def check_marks(config: Config, store: Store) -> None:
    """Refuse a store of dialogues for a run that learns everything, and the other way round.

    Raises:
        InputError: so it is, or rows of dialogues have another length than the run's.
    """
    wanted = config.data.learn == "answers"
    if wanted != (store.row_tokens > 0):
        holds = "texts" if wanted else "dialogues, whose answers alone are to be learned"
        right = "; give a store that `launch/finetune.py` has made" if wanted else ""
        raise InputError(
            f"data.learn is {config.data.learn}, but the store {store.url} holds {holds}{right}."
        )
    length = config.model.sequence_length
    if wanted and store.row_tokens != length:
        raise InputError(
            f"model.sequence_length is {length}, but the dialogues of {store.url} are packed into "
            f"rows of {store.row_tokens} tokens; give --model.sequence-length {store.row_tokens}, "
            "or pack them again."
        )


def check_tokenizer(run_dir: Path, store: Store, start: Start | None = None) -> None:
    """Refuse a store that was not made with the tokenizer that came with imported weights.

    Args:
        start: what the run is about to start from.

    Raises:
        InputError: they differ.
    """
    path, came = run_dir / TOKENIZER_FILE, start.tokenizer if start else None
    if path.exists():
        came = Tokenizer.from_file(path)
    if came and came.cuts_sha256 != store.tokenizer().cuts_sha256:
        if start and not path.exists():
            path = Path(start.origin["path"]) / TOKENIZER_FILE
        first = "" if path.exists() else f"`launch/convert.py from-hf {path.parent} RUN` and "
        raise InputError(
            f"The store {store.url} was not made with the tokenizer that the imported weights came "
            f"with; make one with {first}`launch/data.py build --tokenizer "
            f"{f'RUN/{TOKENIZER_FILE}' if first else path}`, and give it."
        )


def open_run_store(run_dir: Path, config: Config, place: str | None) -> Store:
    """Open the store of a run, or the same one where it is now.

    Args:
        run_dir: the run.
        config: of the run.
        place: folder or URL of the store, if it is no longer where the run found it.

    Raises:
        InputError: there is none, the run has read none yet, or its tokenizer is another.
    """
    if is_untrained(run_dir) and not place:
        raise InputError(f"{run_dir} was imported and has read no store; give one by --store.")
    store = open_store(place or config.data.store)
    check_tokenizer(run_dir, store)
    return store
