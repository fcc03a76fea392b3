"""One of the processes in which `compile_emulated` has its devices: `… emulated_process RANK`.

The first compiles and prints. The others only let it see their devices until they are ended, by
whom or how ever: their input ends then, too.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import jax

from fugaku_jax.cluster.devices import emulate
from fugaku_jax.cluster.hosts import find_hosts, join


def main() -> None:
    """Read the job from the first line of input."""
    rank, job = int(sys.argv[1]), json.loads(sys.stdin.readline())
    emulate(job["devices"])
    jax.config.update("jax_enable_compilation_cache", False)  # what is found there takes no time
    join(find_hosts({}, job["coordinator"], job["processes"], rank))
    jax.devices()  # waits until all processes have told theirs
    if rank:
        sys.stdin.read()
    else:
        from fugaku_jax.config import config_from_dict
        from fugaku_jax.planning.compile import compile_step
        from fugaku_jax.training.recipe_optimizer import optimizer_of_recipe

        steps = []
        for fields, recipe, devices in job["runs"]:
            config = config_from_dict(fields)
            built = optimizer_of_recipe(Path(recipe), config)
            steps.append(compile_step(config, devices, built))
        print(json.dumps([asdict(step) for step in steps]), flush=True)
    os._exit(0)  # JAX would wait for all the others to end


if __name__ == "__main__":
    main()
