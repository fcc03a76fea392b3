"""Compiled programs on disk, so that a run which starts again need not compile again.

JAX keeps them under a key of the program, its options, the flags of XLA and the version of jaxlib.
To that is added here what the processor can do, in the folder's name, as a home directory may serve
machines of several kinds; and that an entry is whole: JAX writes it in place, without a checksum,
so that a process which is killed, or a bad disk, would leave what is executed later. And the key of
a program over several processes is the same in all of them: JAX's holds which of the devices are a
process's own, and as process 0 alone writes, the others would always compile.

What lies there is machine code. So it is kept in the user's own cache, which nobody else may enter,
and not in a run's directory, which is handed on and must execute nothing.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

VARIABLE = "FUGAKU_JAX_COMPILED"
"""The environment variable that names another folder, or is `off`."""
JAX_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
"""Whoever sets only this one has JAX keep compiled programs there, in its own way."""
MOST_BYTES = 1 << 30
"""Most bytes of a folder; the oldest entries go first."""
_SUFFIX = "-cache"
_DIGEST = hashlib.sha256
_OF_DEVICES = "_hash_accelerator_config"


def user_cache() -> Path:
    """Return the folder of the user's in which this project keeps what can be made again."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "fugaku_jax"


def use_compile_cache() -> None:
    """Have this process keep what it compiles, and use what was kept.

    To be called before anything is compiled. A folder that cannot be written, or a JAX without
    what is replaced here, leaves it at compiling.
    """
    import jax
    from jax._src import cache_key, compilation_cache

    chosen = os.environ.get(VARIABLE, "")
    if chosen == "off" or (not chosen and os.environ.get(JAX_VARIABLE)):
        return
    if not (hasattr(compilation_cache, "LRUCache") and hasattr(cache_key, _OF_DEVICES)):
        return
    folder = Path(chosen) if chosen else user_cache() / "compiled"
    folder /= _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid != os.getuid() or not os.access(folder, os.W_OK):
            return
        folder.chmod(0o700)
    except OSError:
        return
    # Not public, as JAX has no way to say how entries are written and named; asked for above.
    compilation_cache.LRUCache = CheckedCache  # pyrefly: ignore[bad-assignment]
    setattr(cache_key, _OF_DEVICES, _hash_devices)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class CheckedCache:
    """Entries with a digest behind each, written whole or not at all; JAX calls it.

    Args:
        path: the folder.
        max_size: JAX's own bound, which does not count here.
    """

    def __init__(self, path: str, *, max_size: int = -1, **_: Any) -> None:
        del max_size
        self._path = Path(path)

    def get(self, key: str) -> bytes | None:
        """Return an entry; None if it is not there, or not as it was written: then it is gone."""
        path = self._path / f"{key}{_SUFFIX}"
        try:
            data = path.read_bytes()
        except OSError:
            return None
        size = _DIGEST().digest_size
        value, digest = data[:-size], data[-size:]
        if _DIGEST(value).digest() == digest:
            return value
        path.unlink(missing_ok=True)
        return None

    def put(self, key: str, value: bytes) -> None:
        """Keep an entry, if its folder has room for it."""
        path = self._path / f"{key}{_SUFFIX}"
        partial = path.with_name(f".{os.uname().nodename}-{os.getpid()}.partial")
        try:
            partial.write_bytes(value + _DIGEST(value).digest())
            partial.replace(path)
        except OSError:  # a full disk must not end a program that compiled all the same
            partial.unlink(missing_ok=True)
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        found = []
        for path in self._path.iterdir():
            try:
                status = path.stat()
            except OSError:  # another process has dropped it
                continue
            found.append((status.st_mtime, status.st_size, path))
        left = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if left <= MOST_BYTES:
                return
            path.unlink(missing_ok=True)
            left -= size


def _hash_devices(key: Any, devices: Any) -> None:
    """Put into a key which devices a program is for, and which process has each."""
    for device in devices.flat:
        key.update(f"{device.device_kind} {device.id} of {device.process_index};".encode())


def _processor() -> str:
    """Return a word for what this processor can run."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    said = re.findall(r"^(?:flags|Features|model name|CPU \w+)\s*:.*$", text, re.MULTILINE)
    machine = os.uname().machine
    return f"{machine}-{_DIGEST(chr(10).join(sorted(set(said))).encode()).hexdigest()[:16]}"
