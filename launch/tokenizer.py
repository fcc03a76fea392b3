"""Look into tokenizers, and compare them by the texts of inputs. See `docs/data.md`."""

import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import tyro
from command import parse, run_program
from rich.console import Console

from fugaku_jax.data.inputs import read_inputs
from fugaku_jax.data.texts import texts_by_domain
from fugaku_jax.data.tokenizer import Tokenizer
from fugaku_jax.data.tokenizer_merge import train_merged
from fugaku_jax.data.tokenizer_report import compare as compare_tokenizers
from fugaku_jax.data.tokenizer_report import comparison_table, piece_kinds, piece_scripts
from fugaku_jax.run.whole_file import replace_file

Json = Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff]


def inspect(model: tyro.conf.Positional[Path], text: str | None = None) -> None:
    """Print what a tokenizer is made of, or how it cuts a text, as one JSON object.

    Args:
        model: A SentencePiece .model file.
        text: The text to cut.
    """
    tokenizer = Tokenizer.from_file(model)
    if text is None:
        said = {
            "vocab_size": tokenizer.vocab_size,
            "end_of_document": tokenizer.end_of_document,
            "ends": tokenizer.ends,
            "sha256": tokenizer.sha256,
            "cuts_sha256": tokenizer.cuts_sha256,
            "kinds": piece_kinds(tokenizer),
            "scripts": piece_scripts(tokenizer),
        }
    else:
        ids = tokenizer.encode(text)
        spelled, ends = tokenizer.decode_each(ids)
        places = pairwise([0, *ends.tolist()])
        parts = [spelled[begin:end].decode(errors="replace") for begin, end in places]
        said = {"ids": ids, "pieces": parts, "characters_per_token": len(text) / max(len(ids), 1)}
    print(json.dumps(said, ensure_ascii=False, indent=1))


def compare(
    models: tyro.conf.Positional[tuple[Path, ...]],
    inputs: tuple[Path, ...],
    held_out: float = 0.01,
    megabytes: float = 16,
    as_json: Json = False,
) -> None:
    """Print how many characters a token stands for, by tokenizer and domain.

    Args:
        models: SentencePiece .model files.
        inputs: Files of texts, or mixture files (.toml), which say the domains.
        held_out: Fraction of the documents that is read: those that a store with the same
            --validation holds out, which no tokenizer of a careful person was trained on.
        megabytes: Most that is read of a domain.
        as_json: Print one JSON object.
    """
    names = {str(path): Tokenizer.from_file(path) for path in models}
    found = compare_tokenizers(names, read_inputs(inputs), held_out, int(megabytes * 1e6))
    if as_json:
        rows = {
            domain: {
                name: asdict(each) | {"characters_per_token": each.characters_per_token}
                for name, each in by_name.items()
            }
            for domain, by_name in found.items()
        }
        print(json.dumps(rows, ensure_ascii=False))
        return
    Console().print(comparison_table(found, names))


def train(
    inputs: tyro.conf.Positional[tuple[Path, ...]],
    out: Path,
    pieces: dict[str, int],
    held_out: float = 0.01,
    megabytes: float = 16,
) -> None:
    """Train a tokenizer of each domain, merge them, and score the pieces anew, as llm-jp did.

    Args:
        inputs: Files of texts, or mixture files (.toml), which say the domains.
        out: The .model file to write.
        pieces: Pieces of each domain's own tokenizer: ja 30000 en 20000.
        held_out: Fraction of the documents that is left out, those that a store holds out.
        megabytes: Most that is read of a domain.
    """
    texts = texts_by_domain(read_inputs(inputs), held_out, False, megabytes * 1e6)
    read = {domain: list(its_texts) for domain, its_texts in texts.items()}
    model = train_merged(read, pieces).model_bytes
    replace_file(out, lambda file: file.write(model))


def main() -> None:
    """Runs the command that was asked for."""
    return parse({"inspect": inspect, "compare": compare, "train": train}, description=__doc__)


if __name__ == "__main__":
    run_program(main)
