"""Plant a full disk in a run: a small one in memory (tmpfs), in a process that alone sees it.

Where the system lets nobody have a mount of his own, its limit on the size of a file plays a disk
that has room for small ones. `python full_disk.py FOLDER [DISK]` prints what is seen as JSON.
"""

import contextlib
import dataclasses
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

from planted import Bench, Seen, at_step

from fugaku_jax.run.checkpoint_folder import saved_steps
from fugaku_jax.run.configuration import read_config
from fugaku_jax.run.metrics import read_metrics
from fugaku_jax.run.restarts import why_not_go_on

LEFT_BYTES = {
    "no room on the disk for a checkpoint": 100_000,
    "no room on the disk for anything": 0,
}
"""What is left when it is full: enough for small files, or nothing."""
SAME = ("File too large", "No space left on device")
"""What the limit says, and a disk."""
MOUNT = 'mount -t tmpfs -o size=16m tmpfs "$0" && exec "$@" "$0"'


def plant_full_disks(bench: Bench) -> dict[str, tuple[Seen, str]]:
    """Plant all; return what was seen of each, and what job scripts then say, if not to go on.

    Args:
        bench: where nothing has befallen one run.
    """
    disk = bench.folder / "disk"
    disk.mkdir()
    program = [sys.executable, __file__, str(bench.folder)]
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, str(disk)]
    try:
        can_mount = subprocess.run([*alone, "true"], check=False, capture_output=True)
        command = program if can_mount.returncode else [*alone, *program]
    except FileNotFoundError:  # no such program
        command = program
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    return {name: (Seen(**seen), why_not) for name, (seen, why_not) in found.items()}


class Disk:
    """Where runs are kept until there is no room.

    Args:
        folder: of the disk.
        is_real: whether it is a disk of its own, and a small one.
    """

    def __init__(self, folder: Path, is_real: bool) -> None:
        self.folder, self._is_real = folder, is_real
        self._filler, self._limits = folder / "filler", resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, left: int) -> None:
        """Leave so many bytes."""
        if not self._is_real:
            resource.setrlimit(resource.RLIMIT_FSIZE, (left, self._limits[1]))
            return
        with self._filler.open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            file.truncate(file.tell() - left)

    def clear(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)


def planted(bench: Bench, disk: Disk, left: int) -> tuple[Seen, str]:
    """Fill the disk once a checkpoint is there; the next session finds it full, too."""

    def fill() -> None:
        while not saved_steps(bench.run):
            time.sleep(0.01)
        disk.fill(left)

    code, said = bench.session(bench.run, at_step(5, fill))
    taken = len(read_metrics(bench.run))
    why_not = why_not_go_on(bench.run, code)
    assert bench.session(bench.run)[0] == code
    disk.clear()
    said = re.sub(r"What failed: .*", "What failed: …", re.sub(r" \(/.*?\)", "", said))
    return bench.seen(code, said.replace(*SAME), taken), why_not.replace(*SAME)


def main() -> None:
    """Plant all."""
    folder, *disks = map(Path, sys.argv[1:])
    bench = Bench(read_config(folder / "whole"), folder)
    disk = Disk(disks[0] if disks else folder, is_real=bool(disks))
    found = {}
    for name, left in list(LEFT_BYTES.items())[: None if disks else 1]:
        bench.run = disk.folder / f"run-{left}"
        seen, why_not = planted(bench, disk, left)
        found[name] = dataclasses.asdict(seen), why_not
    print(json.dumps(found))


if __name__ == "__main__":
    main()
