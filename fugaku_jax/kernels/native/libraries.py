"""The native libraries, and which one this processor gets.

`pip install` builds one for each instruction set of the processor's family (`CMakeLists.txt`).
"""

import ctypes
import functools
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from fugaku_jax import processor

_AVX2 = {"avx2", "bmi2", "fma", "f16c"}
_AVX512 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "fma", "f16c"}
_VNNI = _AVX512 | {"avx512_vnni"}
_PAIRS = _VNNI | {"avx512_bf16"}
_AMX = _PAIRS | {"amx_tile", "amx_bf16", "amx_int8"}
# Whether the processor can run a library; the best comes first.
_LIBRARIES: dict[str, Callable[[], bool]] = {
    "a64fx": processor.is_a64fx,
    "avx512_amx": lambda: processor.features() >= _AMX and processor.may_use_tiles(),
    "avx512_bf16": lambda: processor.features() >= _PAIRS,
    "avx512_vnni": lambda: processor.features() >= _VNNI,
    "avx512": lambda: processor.features() >= _AVX512,
    "avx2": lambda: processor.features() >= _AVX2,
    "generic": lambda: True,
}


@functools.cache
def load(wanted: str | None = None) -> ctypes.CDLL | None:
    """Load the best library that this processor can run, or the one of a name; None if none is
    there, which is said.
    """
    for name in [wanted] if wanted else _ordered():
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


def _ordered() -> list[str]:
    """Return the names of all libraries, the best for this processor first."""
    names = list(_LIBRARIES)
    # Intel's cores multiply pairs of bf16 half as fast as fp32, and widen them in less time.
    if "GenuineIntel" in processor.features():
        names.remove("avx512_bf16")
    return names


def _sources() -> list[Path]:
    """Return what libraries are built from; nothing where only the package is installed."""
    return [*Path(__file__).parent.glob("**/*.cc"), *Path(__file__).parent.glob("**/*.h")]


def installed(file: str) -> Path | None:
    """Return where `pip install` put a library: perhaps not beside its sources; None if nowhere."""
    distributions = metadata.distributions(name="fugaku-jax")
    paths = (Path(str(each.locate_file(file))) for each in distributions)
    return next((path for path in paths if path.exists()), None)
