"""Training that starts from a model of another project's."""

import functools
from pathlib import Path

import jax.numpy as jnp

from fugaku_jax.interop.hf_import import open_hf
from fugaku_jax.interop.imported import place_parameters
from fugaku_jax.run.identity import Start


def start_from_hf(folder: Path) -> Start:
    """Open a model directory of Hugging Face's for a run to start from.

    Raises:
        InputError: it is none, it is incomplete or damaged, or it is not supported.
    """
    source = open_hf(folder)
    parameters = functools.partial(place_parameters, source, dtype=jnp.float32)
    return Start(parameters, source.origin, source.tokenizer)
