"""A store's tokens for Megatron-LM: a command of `data.py`."""

from pathlib import Path
from typing import Literal

import tyro

from fugaku_jax.data.builtin import open_store
from fugaku_jax.interop.megatron_data import write_indexed


def to_megatron(
    store: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    split: Literal["train", "validation"] = "train",
) -> None:
    """Write each set's tokens as Megatron-LM's indexed data: SET.bin and SET.idx.

    Args:
        store: Folder or URL of the store, or builtin.
        out: Folder to write to; files of the same names there are replaced.
        split: The side to write.
    """
    print(*write_indexed(open_store(store), out, split), sep="\n")
