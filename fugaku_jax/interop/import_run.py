"""A model of another project's as a run of ours that nobody has trained yet."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from fugaku_jax.errors import InputError
from fugaku_jax.interop.chunked_arrays import Index
from fugaku_jax.interop.imported import Imported, default_run
from fugaku_jax.interop.saved_weights import write_weights
from fugaku_jax.interop.whole_directory import whole_directory
from fugaku_jax.models.layout import make_layout
from fugaku_jax.run.configuration import CONFIG_FILE
from fugaku_jax.run.identity import LEDGER_FILE, TOKENIZER_FILE
from fugaku_jax.tuning.data_of_run import give_template


def import_run(source: Imported, run_dir: Path) -> None:
    """Write a run of step 0: configuration, weights, tokenizer, and where they come from.

    No more than a chunk of a weight is in memory at a time.

    Args:
        source: the model.
        run_dir: the directory; it must not exist yet, or be empty. It appears when all is written.

    Raises:
        InputError: something is in the way, or the disk is full.
    """
    config, origin = default_run(source.model), {"imported": source.origin}
    layers = range(source.model.n_layers)

    def part(
        path: tuple[str, ...], shape: tuple[int, ...], index: Index
    ) -> Shaped[np.ndarray, "..."]:
        return source.part(path, shape, index, jnp.float32, layers)

    identity = {"config": config.to_dict(), "ledger": origin}
    with whole_directory(run_dir) as unfinished:
        _write_json(unfinished / CONFIG_FILE, config.to_dict())
        _write_json(unfinished / LEDGER_FILE, origin)
        if source.tokenizer:
            (unfinished / TOKENIZER_FILE).write_bytes(source.tokenizer.model_bytes)
        if source.template:
            give_template(unfinished, source.template)
        shapes = make_layout(config, devices=1).shapes
        try:
            write_weights(unfinished, shapes, part, identity)
        except InputError:
            raise
        except (ValueError, RuntimeError) as error:  # TensorStore has no class of its own
            reason = str(error).split(" [")[0]
            raise InputError(f"{run_dir} cannot be written: {reason}.") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
