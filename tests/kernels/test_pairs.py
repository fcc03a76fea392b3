"""Products in the narrow arithmetic that few processors have, and attention in pairs of bf16.

AVX512-BF16 multiplies bf16 in pairs, A64FX multiplies fp16 as such, AMX multiplies bf16 by tiles.
The generic library is compiled once more with a software version of these (in vector.h and
isa/amx.h), and the tests of products and of attention run with that library.
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from fugaku_jax.kernels import native

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "fugaku_jax" / "kernels" / "native"
FLAGS = (
    *("-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-ffp-contract=fast"),
    *("-fno-math-errno", "-fno-trapping-math", '-DISA="isa/generic.h"'),
)


@pytest.mark.parametrize("kinds", [("PAIRS", "HALVES"), ("TILES",)], ids="+".join)
def test_products_and_attention_hold_in_narrow_arithmetic(tmp_path, kinds):
    library = tmp_path / "fugaku_jax" / "kernels" / "native" / "generic.so"
    library.parent.mkdir(parents=True)
    sources = [NATIVE / name for name in ("matmul.cc", "attention.cc", "panels.cc")]
    defined = [f"-DFUGAKU_JAX_{kind}" for kind in kinds]
    subprocess.run(
        ["c++", *FLAGS, *defined, "-isystem", jax.ffi.include_dir(), "-o", library, *sources],
        check=True,
    )
    # What comes first in PYTHONPATH is found before the environment's own.
    installed = tmp_path / "fugaku_jax-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: fugaku-jax\nVersion: 0\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), native.ISA_VARIABLE: "generic"}
    file = "fugaku_jax/kernels/native/generic.so"
    of_it = "from fugaku_jax.kernels.native.libraries import installed"
    program = f"{of_it}; print(installed('{file}'))"
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(library)
    names = ["test_matmul.py", "test_panels.py"]
    if "PAIRS" in kinds:  # by tiles are products alone
        names += ["test_native_attention.py"]
    tests = [HERE / name for name in names]
    options = (
        "-q",
        "-k",
        # Of fp32, of threads and of wrong calls the ordinary library has told all.
        "(test_matmul or generic) and not float32 and not number_of_threads and not wrong",
        "-p",
        "no:cacheprovider",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
