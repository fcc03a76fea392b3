"""Prepare corpora, build token stores, look into them. See `docs/corpora.md`, `docs/data.md`."""

from pathlib import Path
from typing import Literal

import tyro
from command import parse, run_program
from corpora import prepare
from data_croissant import croissant
from data_megatron import to_megatron
from data_verify import check, verify
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from suffix_index import make_index

from fugaku_jax.data.build import build_store, choose_tokenizer
from fugaku_jax.data.builtin import open_store
from fugaku_jax.data.inputs import read_inputs
from fugaku_jax.data.summary import summary_tables
from fugaku_jax.processor import available_cores

_CORES = len(available_cores())


def build(
    inputs: tyro.conf.Positional[tuple[Path, ...]],
    out: str,
    tokenizer: str,
    validation: float = 0.01,
    workers: int = _CORES,
    on_bad_line: Literal["stop", "skip"] = "stop",
    end_of_document: int | None = None,
    in_place: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Turn files into a token store. An older store at the same place is replaced.

    Args:
        inputs: .jsonl (.gz, .zst, .xz), .parquet, .txt files, tokens (.idx, .npy), or mixture
            files (.toml).
        out: Folder or URL (file://, s3://, gs://) of the store.
        tokenizer: A SentencePiece .model file, train:VOCAB to train one on the inputs, or
            numbers:VOCAB for tokens that are no text.
        validation: Fraction of the documents to hold out.
        workers: Threads that encode.
        on_bad_line: What to do at a line that is no document, or where a file is damaged: stop,
            or skip the line, or what lies behind it in the file, and list it.
        end_of_document: The token that ends documents, if it is not the tokenizer's own.
        in_place: Leave tokens of .idx and .npy files where they are; the last documents of each are
            held out.
    """
    sets = read_inputs(inputs)
    console = Console(stderr=True, markup=False)
    with console.status(f"tokenizer {tokenizer}"):
        model = choose_tokenizer(tokenizer, sets, on_bad_line, end_of_document)
    name = TextColumn("{task.description}", markup=False)
    columns = name, BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        paths = [path for each in sets for path in each.paths]
        tasks = {path: bar.add_task(path.name, total=path.stat().st_size) for path in paths}
        report = build_store(
            out,
            sets,
            model,
            validation,
            workers,
            on_bad_line,
            progress=lambda path, n: bar.update(tasks[path], completed=n),
            end_of_document=end_of_document,
            in_place=in_place,
        )
    if report.bad_lines:
        print(f"{report.bad_line_count} bad lines left out:", *report.bad_lines, sep="\n  ")
    if report.damaged_files:
        files = report.damaged_files
        print(f"{len(files)} damaged files, of which the rest is left out:", *files, sep="\n  ")
    show(out)


def show(store: tyro.conf.Positional[str]) -> None:
    """Print what a store (folder, URL or builtin) holds."""
    Console().print(*summary_tables(open_store(store)))


def index(store: tyro.conf.Positional[str], out: Path) -> None:
    """Make the index by which `trace.py text` finds texts in a store's training data.

    Args:
        store: Folder or URL of the store, or builtin.
        out: Folder of the index: six bytes a token, eight from a vocabulary of 65,537 on.
    """
    make_index(open_store(store), out)


def main() -> int | None:
    """Runs the command that was asked for."""
    commands = {"prepare": prepare, "build": build, "show": show, "index": index}
    commands |= {"verify": verify, "check": check}
    commands |= {"croissant": croissant, "to-megatron": to_megatron}
    return parse(commands, description=__doc__)


if __name__ == "__main__":
    run_program(main)
