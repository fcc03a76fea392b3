"""The elementary functions of the native kernels, held to float64 over all floats."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from fugaku_jax.kernels import native

SOURCE = Path(__file__).with_name("elementary.cc")
FLAGS = {
    "avx512_amx": ["-march=x86-64-v4", "-mavx512bf16"],
    "avx512_bf16": ["-march=x86-64-v4", "-mavx512bf16"],
    "avx512_vnni": ["-march=x86-64-v4"],
    "avx512": ["-march=x86-64-v4"],
    "avx2": ["-march=x86-64-v3"],
    "generic": [],
    "a64fx": ["-mcpu=a64fx", "-msve-vector-bits=512"],
}
LEAST = np.finfo(np.float32).tiny
GREATEST = np.finfo(np.float32).max


@pytest.fixture(scope="module")
def functions(library, tmp_path_factory):
    """The functions, compiled for the instruction set of a library."""
    compiler = shutil.which("c++")
    assert compiler, "what compiled the library is needed to see the functions within it"
    header = library.split("_")[0]  # what follows adds to the products alone
    target = tmp_path_factory.mktemp(library) / "elementary.so"
    headers = (Path(native.__file__).parent, Path(jax.ffi.include_dir()))
    subprocess.run(
        [
            *(compiler, "-std=c++20", "-O2", "-fPIC", "-shared", "-ffp-contract=fast"),
            *("-fno-math-errno", "-fno-trapping-math", f'-DISA="isa/{header}.h"'),
            *(*FLAGS[library], "-I", headers[0], "-isystem", headers[1], "-o", target, SOURCE),
        ],
        check=True,
    )
    return ctypes.CDLL(str(target))


def call(functions, name, x):
    x = np.ascontiguousarray(x, np.float32)
    y = np.empty_like(x)
    pointers = (a.ctypes.data_as(ctypes.c_void_p) for a in (x, y))
    getattr(functions, f"{name}_all")(*pointers, ctypes.c_int64(x.size))
    return y


def floats(least, greatest, count=1 << 21):
    """Return floats between two of one sign, evenly by their place in the order of all floats."""
    ends = np.float32([least, greatest]).view(np.uint32)
    return np.linspace(*ends, count).astype(np.uint32).view(np.float32)


def units(ours, exact):
    """Return by how many units in the last place results in fp32 are off."""
    return np.abs(np.float64(ours) - exact) / np.float64(np.spacing(np.abs(np.float32(exact))))


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
def test_exp_is_within_2_units_from_the_least_to_the_greatest_float(functions, sign):
    # The last floats whose exponentials are normal numbers.
    x = sign * floats(1e-9, 88.72283 if sign > 0 else 87.33654)
    assert units(call(functions, "exp", x), np.exp(np.float64(x))).max() < 2


def test_exp_beyond_the_floats(functions):
    big = np.append(floats(88.72284, GREATEST, 999), np.inf).astype(np.float32)
    assert (call(functions, "exp", big) == np.inf).all()
    assert (call(functions, "exp", -floats(87.33655, GREATEST, 999)) == 0).all()
    assert call(functions, "exp", [-np.inf, 0, -0.0, 1e-45]).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("name", ["exp", "reciprocal", "square_root"])
def test_a_nan_stays_one_whatever_its_bits(functions, name):
    bits = np.uint32([0x7F800001, 0x7FC00000, 0x7FFFFFFF, 0x7F812345, 0x7FABCDEF])
    assert np.isnan(call(functions, name, bits.view(np.float32))).all()


def test_reciprocal_is_within_2_units(functions):
    x = floats(LEAST, 2.0**125)
    assert units(call(functions, "reciprocal", x), 1 / np.float64(x)).max() < 2
    assert call(functions, "reciprocal", [2.0**126, GREATEST, np.inf]).tolist() == [0, 0, 0]


def test_square_root_is_within_1_unit(functions):
    x = floats(LEAST, GREATEST)
    assert units(call(functions, "square_root", x), np.sqrt(np.float64(x))).max() < 1
    odd = call(functions, "square_root", [0, -0.0, 1e-45, 1, 4, np.inf])
    assert odd.tolist() == [0, 0, 0, 1, 2, np.inf]
