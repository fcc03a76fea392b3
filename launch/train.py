"""Train a recipe, or go on with a run that was stopped.

python launch/train.py tiny
python launch/train.py tiny --training.steps 50 --model.n-layers 4 --run-dir runs/small
python launch/train.py fugaku_llm_13b --describe
python launch/train.py tiny --emulate-devices 4 --mesh.tensor 2
python launch/train.py tiny --from-hf models/tiny --data.store stores/ja

Exit codes: 0 done, 2 wrong input, 75 stopped early but saved (the same command goes on).
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

from fugaku_jax.huge_pages import use_huge_pages

if __name__ == "__main__":  # here, so that what follows is imported only once
    use_huge_pages()

import tyro
from command import parse, run_program
from output import outlive_readers
from recipes import continued, load_recipe, recipe_file

from fugaku_jax.cluster.devices import emulate
from fugaku_jax.cluster.hosts import agree, find_hosts, join
from fugaku_jax.compile_cache import use_compile_cache
from fugaku_jax.config import Config
from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_shape import check_model


def main() -> int:
    """Read the arguments, then describe or train."""
    name, args = _recipe_name()
    recipe = continued(load_recipe(name), args, Path("runs") / name)

    def train(
        config: Annotated[Config, tyro.conf.arg(name="")] = recipe,
        run_dir: Path = Path("runs") / name,
        from_hf: Path | None = None,
        describe: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
        emulate_devices: int | None = None,
        coordinator: str | None = None,
        processes: int | None = None,
        process: int | None = None,
    ) -> int:
        """Train a recipe.

        Args:
            config: The configuration; every field can be overridden.
            run_dir: Where the run is kept. If it was imported, it gives the model's shape, and the
                recipe all else.
            from_hf: Model directory of Hugging Face's whose weights the run starts from. It also
                gives the model's shape; the recipe gives all else.
            describe: Print what the run would be as one JSON object, and do nothing.
            emulate_devices: Let each process have this many devices, by emulation on its CPU.
            coordinator: HOST:PORT of rank 0; like the next two, found by itself under Slurm, Open
                MPI, PMIx, PJM and Kubernetes.
            processes: Processes of the run.
            process: This process, from 0.
        """
        if from_hf:
            check_model(config.model, from_hf)
        if describe:
            from fugaku_jax.planning.describe import describe_run

            print(json.dumps(describe_run(config), ensure_ascii=False))
            return 0
        hosts = find_hosts(os.environ, coordinator, processes, process)
        emulate(emulate_devices)
        places = {"run_dir": str(run_dir), "from_hf": str(from_hf)}
        agree(hosts, "configuration", config.to_dict() | places)
        watchdog = join(hosts)
        use_compile_cache()
        with watchdog.blaming():
            from fugaku_jax.interop.continual import start_from_hf
            from fugaku_jax.run.sessions import seconds_since_start
            from fugaku_jax.training.loop import train as run
            from fugaku_jax.training.recipe_optimizer import optimizer_of_recipe

            start = start_from_hf(from_hf) if from_hf else None
            return run(
                config,
                run_dir,
                start,
                optimizer=optimizer_of_recipe(recipe_file(name), config),
                seconds_before=seconds_since_start(),
                watchdog=watchdog,
            )

    return parse(train, args, prog=f"train.py {name}", description=__doc__)


def _recipe_name() -> tuple[str, list[str]]:
    """Split the command line in the recipe and its overrides."""
    args = sys.argv[1:]
    if args and args[0] in ("-h", "--help"):
        return "tiny", args
    if not args or args[0].startswith("-"):
        raise InputError(
            "The recipe comes first, as in `python launch/train.py tiny --training.steps 50`."
        )
    return args[0], args[1:]


if __name__ == "__main__":
    outlive_readers()
    run_program(main)
