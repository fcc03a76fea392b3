"""Which implementations the tests of kernels run: the reference and each library built for here."""

import shutil

import jax
import pytest

from fugaku_jax.kernels import native


def _libraries():
    """Return the names of the native libraries that are built and that this processor can run."""
    with pytest.MonkeyPatch.context() as patch:
        names = []
        for name in ("avx512_bf16", "avx512", "avx2", "generic", "a64fx"):
            patch.setenv(native.ISA_VARIABLE, name)
            native._library.cache_clear()
            if native.loaded():
                names.append(name)
    native._library.cache_clear()
    return names


def _choose(name):
    """Run kernels by one implementation until the generator goes on."""
    with pytest.MonkeyPatch.context() as patch:
        if name == "reference":
            patch.setenv(native.VARIABLE, "reference")
        else:
            patch.setenv(native.VARIABLE, "native")
            patch.setenv(native.ISA_VARIABLE, name)
        _forget()
        yield name
    _forget()


def _forget():
    """What was traced for one implementation would run for the next."""
    native._library.cache_clear()
    native._target.cache_clear()
    jax.clear_caches()


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
