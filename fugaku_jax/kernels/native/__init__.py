"""The native library: whether its kernels are taken, and how they are called.

The first kernel that is asked for loads a library (`libraries.py`) and registers its functions with
XLA. The variable `FUGAKU_JAX_KERNELS` decides when the program
begins: `auto` (the default) takes the native kernels where they are and says once if they are not,
`native` insists on them, and `reference` runs what is written in `jnp` beside each of them. Within
`use` that is what decides, and JAX's caches know of it.
"""

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree, Shaped

from fugaku_jax.errors import InputError
from fugaku_jax.kernels.native.libraries import load

VARIABLE = "FUGAKU_JAX_KERNELS"
ISA_VARIABLE = "FUGAKU_JAX_ISA"
CHOICES = ("auto", "native", "reference")

_chosen = jax.make_user_context((os.environ.get(VARIABLE, "auto"), os.environ.get(ISA_VARIABLE)))

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
"""What kernels read; they compute in fp32."""


def use(choice: str, library: str | None = None) -> AbstractContextManager[None]:
    """Return a context in which, in this thread, kernels run otherwise than the environment says.

    Args:
        choice: `auto`, `native` or `reference`.
        library: name of the library that native kernels are taken from; the best if not given.
    """
    return _chosen((choice, library))


def enabled() -> bool:
    """Return whether operations run native kernels: on CPU, if there is a library for it.

    Raises:
        InputError: there is no such choice, or it insists on a library that is not there.
    """
    choice, _ = _chosen.value
    if choice not in CHOICES:
        raise InputError(f"{VARIABLE} is {choice!r}, but it must be one of {', '.join(CHOICES)}.")
    if choice == "reference" or jax.default_backend() != "cpu":
        return False
    if choice == "native" and loaded() is None:
        raise InputError(f"{VARIABLE} is native, but none were built for this processor.")
    return loaded() is not None


def loaded() -> str | None:
    """Load the library for this processor and return its name; None if there is none."""
    library = load(_chosen.value[1])
    return None if library is None else Path(library._name).stem


def call(
    function: str,
    results: Sequence[jax.ShapeDtypeStruct],
    *operands: Shaped[Array, "..."],
    aliases: dict[int, int] | None = None,
    **attributes: Any,
) -> list[Shaped[Array, "..."]]:
    """Call a kernel with this device's operands; inside `on_each_device`, if there are several.

    Args:
        function: the kernel's name without prefix.
        results: shapes and types of what it returns.
        aliases: which operand becomes which result, by number; XLA copies it if it is wanted
            otherwise.
        attributes: what its C++ handler binds as attributes.
    """
    types = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results]
    kernel = jax.ffi.ffi_call(
        _target(function, loaded()), types, input_output_aliases=aliases, vmap_method="sequential"
    )
    return list(kernel(*operands, **attributes))


def on_each_device(
    function: Callable[..., PyTree[Shaped[Array, "..."]]],
    results: PyTree[PartitionSpec],
    *operands: Shaped[Array, "..."] | None,
) -> PyTree[Shaped[Array, "..."]]:
    """Run a function on each device's part of the operands, cut as their types say.

    A custom call is opaque to XLA, which would otherwise gather its operands.

    Args:
        results: the partition of each result over axes that are not manual already.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = set(mesh.axis_names) - set(mesh.manual_axes)
    if not axes:
        return function(*operands)
    specs = tuple(None if x is None else jax.typeof(x).sharding.spec for x in operands)
    mapped = jax.shard_map(
        function, in_specs=specs, out_specs=results, axis_names=axes, check_vma=False
    )
    return mapped(*operands)


@functools.cache
def _target(function: str, library: str | None) -> str:
    """Make a function of a library known to XLA, under its name there and the library's."""
    symbol = getattr(load(library), f"fugaku_{function}")
    name = f"fugaku_{function}_{library}"
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(symbol), platform="cpu")
    return name
