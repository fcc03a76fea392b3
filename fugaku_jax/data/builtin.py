"""The built-in corpus: a few megabytes made by our own code, so that a first run downloads nothing.

Japanese, English and arithmetic are generated (`generated/`); code is the interpreter's own
standard library. Weights are the shares of Fugaku-LLM's training tokens.
"""

import atexit
import contextlib
import importlib.metadata
import json
import platform
import random
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fugaku_jax.compile_cache import user_cache
from fugaku_jax.data.build import build_store, choose_tokenizer
from fugaku_jax.data.generated import arithmetic, english, japanese
from fugaku_jax.data.inputs import InputSet
from fugaku_jax.data.store import Store
from fugaku_jax.errors import InputError

NAME = "builtin"
VOCAB_SIZE = 4096
VALIDATION = 0.02
_VERSION = 1  # of the generated text; raise it with every change that alters a byte
_MEGABYTE = 10**6

# Domain: (bytes of text, share of the original's 400 billion training tokens in thousandths).
SETS = {
    "ja": (2.2 * _MEGABYTE, 544),
    "en": (1.2 * _MEGABYTE, 314),
    "code": (0.35 * _MEGABYTE, 78),
    "math": (0.25 * _MEGABYTE, 64),
}


def open_store(name_or_url: str) -> Store:
    """Opens a token store; `builtin` is built on its first use and kept in the user's cache.

    Args:
        name_or_url: "builtin", or the folder or URL of a store.

    Raises:
        InputError: there is no store, or it is corrupt.
    """
    if name_or_url != NAME:
        return Store.open(name_or_url)
    try:
        return _open_or_build(user_cache())
    # No home, no place to write to, or no room: the temporary folder may do.
    except (OSError, RuntimeError, InputError):
        folder = Path(tempfile.mkdtemp(prefix="fugaku_jax-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return _open_or_build(folder)


def store_url(name_or_url: str) -> str:
    """The folder or URL of a store; that of `builtin` is built if it is not there.

    Raises:
        InputError: as `open_store`.
    """
    return open_store(NAME).url if name_or_url == NAME else name_or_url


def documents(domain: str) -> Iterator[dict[str, str]]:
    """The documents of a domain of the built-in corpus, always the same.

    Args:
        domain: ja, en, code or math.

    Raises:
        InputError: domain is code, and this interpreter came without its library's sources.
    """
    size, wanted = 0, SETS[domain][0]
    for number, (name, text) in enumerate(_texts(domain)):
        yield {
            "id": f"builtin/{domain}/{name or number}",
            "source": f"Python {platform.python_version()}" if domain == "code" else "fugaku_jax",
            "licence": "PSF-2.0" if domain == "code" else "Apache-2.0",
            "text": text,
        }
        size += len(text.encode())
        if size >= wanted:
            return
    raise InputError(
        "data builtin: this Python came without the sources of its standard library; "
        "install them or build a store with `launch/data.py`."
    )


def _texts(domain: str) -> Iterator[tuple[str, str]]:
    if domain == "code":
        for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                # The largest modules would fill the set alone.
                if 500 < path.stat().st_size < 25_000:
                    yield path.name, path.read_text(encoding="utf-8")
        return
    write = {"ja": japanese.write, "en": english.write, "math": arithmetic.write}[domain]
    rng = random.Random(f"fugaku_jax {domain} {_VERSION}")
    while True:
        yield "", write(rng)


def _open_or_build(folder: Path) -> Store:
    made_with = (
        f"v{_VERSION}-python{platform.python_version()}"
        f"-sentencepiece{importlib.metadata.version('sentencepiece')}"
    )
    place = folder / f"builtin-{made_with}"
    if place.exists():
        with contextlib.suppress(InputError):
            return Store.open(str(place))
        shutil.rmtree(place)  # damaged; it is ours, and made again in seconds
    folder.mkdir(parents=True, exist_ok=True)
    # Built beside its place and moved there whole: several processes may do this at once.
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as building:
        _build(Path(building))
        with contextlib.suppress(OSError):  # another process was quicker; its store is the same
            (Path(building) / "store").rename(place)
    return Store.open(str(place))


def _build(folder: Path) -> None:
    sets = []
    for domain, (_, weight) in SETS.items():
        path = folder / f"{domain}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for document in documents(domain):
                file.write(json.dumps(document, ensure_ascii=False) + "\n")
        sets.append(InputSet(domain, (path,), domain, weight))
    tokenizer = choose_tokenizer(f"train:{VOCAB_SIZE}", sets, "stop")
    build_store(str(folder / "store"), sets, tokenizer, VALIDATION)
