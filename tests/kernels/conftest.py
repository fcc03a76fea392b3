"""Which implementations the tests of kernels run: the reference and each library built for here."""

import shutil

import pytest

from fugaku_jax.kernels import native


def _libraries():
    """Return the names of the native libraries that are built and that this processor can run."""
    names = ("avx512_amx", "avx512_bf16", "avx512_vnni", "avx512")
    names = *names, "avx2", "generic", "a64fx"
    found = []
    for name in names:
        with native.use("native", name):
            found += [name] if native.loaded() else []
    return found


def _choose(name):
    """Run kernels by one implementation until the generator goes on."""
    with native.use("reference") if name == "reference" else native.use("native", name):
        yield name


LIBRARIES = _libraries()
assert LIBRARIES or not shutil.which("c++"), "there is a compiler, but no kernels were built"


@pytest.fixture(scope="module", params=LIBRARIES)
def library(request):
    """Run the tests that ask for it by each native library in turn."""
    yield from _choose(request.param)


@pytest.fixture(scope="module", params=["reference", *LIBRARIES])
def implementation(request):
    """Run the tests that ask for it by the reference and by each native library in turn."""
    yield from _choose(request.param)
