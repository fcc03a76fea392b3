"""The native library: which one this processor gets, and how its kernels are called.

`pip install` builds one library for each instruction set of the processor's family
(`CMakeLists.txt`). The first kernel that is asked for loads the best one that this processor can
run and registers its functions with XLA. The variable `FUGAKU_JAX_KERNELS` decides when the program
begins: `auto` (the default) takes the native kernels where they are and says once if they are not,
`native` insists on them, and `reference` runs what is written in `jnp` beside each of them. Within
`use` that is what decides, and JAX's caches know of it.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree, Shaped

from fugaku_jax import processor
from fugaku_jax.errors import InputError

VARIABLE = "FUGAKU_JAX_KERNELS"
ISA_VARIABLE = "FUGAKU_JAX_ISA"
CHOICES = ("auto", "native", "reference")

_AVX2 = {"avx2", "bmi2", "fma", "f16c"}
_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "fma", "f16c"}
_PAIRS = _AVX512 | {"avx512_bf16", "avx512_vnni"}
_AMX = _PAIRS | {"amx_tile", "amx_bf16", "amx_int8"}
# Whether the processor can run a library; the best comes first.
_LIBRARIES: dict[str, Callable[[], bool]] = {
    "a64fx": processor.is_a64fx,
    "avx512_amx": lambda: processor.features() >= _AMX and processor.may_use_tiles(),
    "avx512_bf16": lambda: processor.features() >= _PAIRS,
    "avx512": lambda: processor.features() >= _AVX512,
    "avx2": lambda: processor.features() >= _AVX2,
    "generic": lambda: True,
}

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
    library = _library(_chosen.value[1])
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
def _library(wanted: str | None) -> ctypes.CDLL | None:
    for name in [wanted] if wanted else _LIBRARIES:
        path = installed(f"fugaku_jax/kernels/native/{name}.so")
        if path is not None and _LIBRARIES.get(name, lambda: True)():
            if any(source.stat().st_mtime > path.stat().st_mtime for source in _sources()):
                print(
                    f"The native kernels {path} are older than their sources, and may not be what "
                    "is called: `touch pyproject.toml && make env` builds them again.",
                    file=sys.stderr,
                )
            return ctypes.CDLL(str(path))
    print("No native kernels were built for this processor: jnp runs.", file=sys.stderr)
    return None


def _sources() -> list[Path]:
    """Return what libraries are built from; nothing where only the package is installed."""
    return [*Path(__file__).parent.glob("**/*.cc"), *Path(__file__).parent.glob("**/*.h")]


@functools.cache
def _target(function: str, library: str | None) -> str:
    """Make a function of a library known to XLA, under its name there and the library's."""
    symbol = getattr(_library(library), f"fugaku_{function}")
    name = f"fugaku_{function}_{library}"
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(symbol), platform="cpu")
    return name


def installed(file: str) -> Path | None:
    """Return where `pip install` put a library: perhaps not beside its sources; None if nowhere."""
    distributions = metadata.distributions(name="fugaku-jax")
    paths = (Path(str(each.locate_file(file))) for each in distributions)
    return next((path for path in paths if path.exists()), None)
