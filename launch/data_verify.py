"""Whether a store is as it was written, and proofs of what it holds: commands of `data.py`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fugaku_jax.data.builtin import store_url
from fugaku_jax.data.proof import DocumentProof, check_proofs, prove
from fugaku_jax.data.verify import verify_store
from fugaku_jax.errors import InputError
from fugaku_jax.json_file import read_json
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.run.data_order import stored_data

Json = Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff]


def verify(
    place: tyro.conf.Positional[str],
    document: str | None = None,
    root: str | None = None,
    store: str | None = None,
    as_json: Json = False,
) -> int:
    """Find what of a store was altered, or prove that it holds a document. Exit code 1: altered.

    Args:
        place: A store (folder, URL or builtin), or a run directory: its store, by the run's root.
        document: Id of a document: read no more than it takes to prove that the store holds it.
        root: The root that the store should have; that of the run, or of the store, without it.
        store: Folder or URL of a run's store, if it is no longer where the run found it.
        as_json: Print one JSON object; with --document it is the proof, which `check` reads.
    """
    if (Path(place) / CONFIG_FILE).exists():
        place, known = stored_data(Path(place))
        root = root or known
    elif store is not None:
        raise InputError(f"--store: {place} is no run, and so has no other store.")
    url = store_url(store or place)
    if document is not None:
        proofs = prove(url, document)
        _tell(proofs, check_proofs(proofs, root or proofs["root"]), as_json)
        return 0
    damages = []
    with _bars() as bars:
        tasks: dict[str, Any] = {}

        def told(part: str, done: int, total: int) -> None:
            if part not in tasks:
                tasks[part] = bars.add_task(part, total=total)
            bars.update(tasks[part], completed=done)

        for damage in verify_store(url, root, told):
            damages.append(damage)
            if not as_json:
                print(damage, flush=True)
    if as_json:
        found = [asdict(each) for each in damages]
        print(json.dumps({"store": url, "damage": found}, ensure_ascii=False))
    elif not damages:
        print(f"{url} is as it was written")
    return int(bool(damages))


def check(file: tyro.conf.Positional[Path], root: str, as_json: Json = False) -> None:
    """Check a proof that `verify --document ID --json` printed, without the store.

    Args:
        file: The proof.
        root: The root of the store, as the run's ledger or the model card says it.
        as_json: Print the proof again, as one JSON object.
    """
    proofs = read_json(file)
    _tell(proofs, check_proofs(proofs, root), as_json)


def _bars() -> Progress:
    name = TextColumn("{task.description}", markup=False)
    columns = name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True, markup=False))


def _tell(proofs: dict[str, Any], checked: list[DocumentProof], as_json: bool) -> None:
    if as_json:
        print(json.dumps(proofs, ensure_ascii=False))
        return
    for each in checked:
        name = proofs["store"]["sets"][each.set_index]["name"]
        end, row = each.start + each.row.length, each.row
        print(
            f"document {row.id} is row {each.number:,} of set {name} {each.split}, "
            f"tokens {each.start:,} to {end - 1:,}, text of sha256 {row.sha256}: "
            f"{len(each.path)} hashes lead to the root"
        )
