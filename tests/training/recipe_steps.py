"""Take real steps of shrunken recipes on their mesh and on one device; save what comes out.

Run by `test_recipes.py`: `python recipe_steps.py OUT.json '{"name": CONFIG, ...}'`, each as
`Config.to_dict` gives it, on 16 emulated devices or fewer. Both begin with the weights that one
device draws; that every mesh draws these is seen in `test_across_meshes.py` and `test_sweep.py`.
"""

import json
import sys
from dataclasses import replace

import jax
from first_steps import lay_out, start_from, train

from fugaku_jax.config import MeshConfig, config_from_dict
from fugaku_jax.training.state import init_state

STEPS = 5


def main() -> None:
    """Save losses and gradient norms of every recipe, `many` and `one`."""
    found = {}
    for name, nested in json.loads(sys.argv[2]).items():
        config = config_from_dict(nested)
        one = lay_out(replace(config, mesh=MeshConfig(data=1)))
        parameters = jax.device_get(init_state(one).parameters)
        found[name] = {}
        for kind, layout in {"many": lay_out(config), "one": one}.items():
            taken = train(layout, STEPS, state=start_from(layout, parameters))
            found[name][kind] = {figure: taken[figure].tolist() for figure in ("losses", "norms")}
    with open(sys.argv[1], "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
