"""Hand broken files to everything that reads one, and see that each is read or refused.

`make fuzz FUZZ_SECONDS=600` tries all readers (`fuzz_targets.py`) for that long. A fault is all but
success or a sentence: another error, a crash, more than 10 s, more memory than a bound, or anything
executed. Its bytes are kept in a file that is named; `fuzz.py --case READER FILE` tries it.

Exit codes: 0 no fault, 1 faults.
"""

import argparse
import gc
import mmap
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

LIMIT_SECONDS = 10
"""How long a file of some kilobytes may take."""
MEMORY_BYTES = 512 << 20
"""Most memory that reading may take. Among it are 256 MB of a store's cache."""
ROOM_BYTES = 4 << 30
"""Most address space that it may ask for, beside what the program has once it has begun. A page of
Parquet may claim 16 GiB, and a window of zstd 2, of which only what is used takes memory."""
MOST_SEEDS = 400
"""Broken files that are kept to begin from, as they came to a place that none had before."""
LARGEST = 1 << 20
"""Most bytes of an input."""
DEFAULT_INPUTS = 1 << 62


def room(bytes_more: int) -> None:
    """Bound the address space of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + bytes_more
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def mapped(path: Path) -> mmap.mmap:
    """Return a file's bytes, which outlive this process whatever ends it."""
    with path.open("w+b") as file:
        file.truncate(LARGEST + 8)
        return mmap.mmap(file.fileno(), LARGEST + 8)


def place_of(error: BaseException) -> tuple[object, ...]:
    """Tell where an error and its causes were raised: how far a file has come."""
    found: list[object] = []
    while error:
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        if trace:
            found.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        found.append(re.sub(r"\W.*", "", str(error))[:20] if error.__cause__ is None else "")
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return tuple(found)


def causes(error: BaseException | None) -> list[BaseException]:
    """Return an error and what it came from."""
    return [error, *causes(error.__cause__ or error.__context__)] if error else []


def work(name: str, folder: Path, seed: int, first: int, most: int, seconds: float) -> Counter[str]:
    """Try inputs in this process; it dies of what is a crash, hangs or takes too long.

    The file `current` holds what is being tried; `faults/` what raised anything but a sentence.
    """
    from executions import Executions
    from fuzz_targets import TARGETS
    from mutations import mutated

    from fugaku_jax.errors import InputError, RunError
    from fugaku_jax.run.metrics import peak_memory_bytes

    # In memory where that can be: a disk would take most of the time.
    shared = Path("/dev/shm")
    own = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir=shared if shared.is_dir() else folder))
    executions = Executions(own)
    seeds, read = TARGETS[name](own)
    for each in seeds:
        read(each)
    is_json = any(each.lstrip().startswith(b"{") for each in seeds)
    first_seeds, places = len(seeds), set()
    counts: Counter[str] = Counter()
    gc.collect()
    room(ROOM_BYTES)
    most_memory = peak_memory_bytes() + MEMORY_BYTES
    begun, current = time.monotonic(), mapped(folder / f"{name}.current")
    for number in range(first, first + most):
        if time.monotonic() - begun > seconds:
            break
        draw = random.Random(f"{seed}/{name}/{number}")
        data = mutated(seeds, first_seeds, is_json, draw)[:LARGEST]
        current[:8] = len(data).to_bytes(8, "little")
        current[8 : 8 + len(data)] = data
        signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
        place: tuple[object, ...] = ()
        try:
            with executions.watching():
                read(data)
            counts["read"] += 1
        except (InputError, RunError) as error:
            place = place_of(error)
            # Arrow's own kind is of what Parquet claims, and takes no memory (see ROOM_BYTES).
            if any(type(each) is MemoryError for each in causes(error)):
                counts["fault: memory"] += 1
                keep(folder, name, data, "memory", error)
            elif len(str(error)) > 2000:
                counts["fault: long sentence"] += 1
                keep(folder, name, data, "long-sentence", error)
            else:
                counts["refused"] += 1
        except Exception as error:
            place = place_of(error)
            counts[f"fault: {type(error).__name__}"] += 1
            keep(folder, name, data, type(error).__name__, error)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if said := executions.take():
            counts["fault: executes"] += 1
            keep(folder, name, data, "executes", said)
        if peak_memory_bytes() > most_memory:
            most_memory = peak_memory_bytes() + MEMORY_BYTES
            counts["fault: memory"] += 1
            keep(folder, name, data, "memory", "it took more memory than the bound")
        if place not in places and len(data) < 1 << 14:
            places.add(place)
            seeds.append(data)
            if len(seeds) > first_seeds + MOST_SEEDS:
                seeds.pop(first_seeds)
    current.close()
    shutil.rmtree(own)
    return counts


def keep(folder: Path, name: str, data: bytes, kind: str, error: BaseException | str) -> None:
    """Keep what made a fault, unless one of its place is there; say what it was."""
    place = (
        "-".join(re.findall(r"(\w+)\.py', (\d+)", repr(place_of(error)))[0])
        if isinstance(error, BaseException)
        and re.findall(r"(\w+)\.py', (\d+)", repr(place_of(error)))
        else "x"
    )
    path = folder / "faults" / f"{name}-{kind}-{place}"
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    said = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else error
    print(f"FAULT of {name}, kept in {path}:\n{said[-3000:]}", flush=True)


def fuzz(name: str, folder: Path, seed: int, most: int, seconds: float) -> Counter[str]:
    """Try inputs of a reader in processes of their own; count what came of them."""
    counts: Counter[str] = Counter()
    begun, first = time.monotonic(), 0
    while (left := seconds - (time.monotonic() - begun)) > 0 and counts.total() < most:
        command = [sys.executable, __file__, "--work", name, "--folder", str(folder)]
        command += ["--seed", str(seed), "--first", str(first), "--seconds", str(left)]
        command += ["--inputs", str(most - counts.total())]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        *said, last = done.stdout.splitlines() or [""]
        print("\n".join(said), end="\n" if said else "", flush=True)
        if done.returncode >= 0:
            done.check_returncode()
            counts.update(eval(last, {"Counter": Counter}))
            break
        kind = "hangs" if done.returncode == -signal.SIGALRM else f"crash {done.returncode}"
        counts[f"fault: {kind}"] += 1
        raw = (folder / f"{name}.current").read_bytes()
        data = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
        keep(folder, name, data, kind.replace(" ", ""), kind)
        first += 1 << 32  # elsewhere than what ended it
    return counts


def main() -> int:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="in all")
    parser.add_argument("--inputs", type=int, default=DEFAULT_INPUTS, help="most of each reader")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--readers", nargs="+")
    parser.add_argument("--folder", type=Path)
    parser.add_argument(
        "--together", action="store_true", help="in one process, which a crash would end"
    )
    parser.add_argument("--case", nargs=2, metavar=("READER", "FILE"))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(repr(work(args.work, args.folder, args.seed, args.first, args.inputs, args.seconds)))
        return 0
    from fuzz_targets import TARGETS

    if args.case:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "own").mkdir()
            TARGETS[args.case[0]](Path(folder) / "own")[1](Path(args.case[1]).read_bytes())
        return 0
    folder = args.folder or Path(tempfile.mkdtemp(prefix="fugaku_jax-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    names = args.readers or list(TARGETS)
    print(f"seed {args.seed}, in {folder}", flush=True)
    total: Counter[str] = Counter()
    for name in names:
        begun, seconds = time.monotonic(), args.seconds / len(names)
        counts = (
            work(name, folder, args.seed, 0, args.inputs, seconds)
            if args.together
            else fuzz(name, folder, args.seed, args.inputs, seconds)
        )
        total += counts
        rate = counts.total() / (time.monotonic() - begun)
        print(f"{name}: {counts.total():,} inputs, {rate:.0f}/s: {dict(counts)}", flush=True)
    faults = sum(count for kind, count in total.items() if kind.startswith("fault"))
    print(f"{total.total():,} inputs in all, {faults:,} faults")
    if not faults:
        shutil.rmtree(folder)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
