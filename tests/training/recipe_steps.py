"""Take real steps of shrunken recipes on their mesh and on one device; save what comes out.

Run by `test_recipes.py`: `python recipe_steps.py OUT.json '{"name": CONFIG, ...}'`, each as
`Config.to_dict` gives it, on 16 emulated devices or fewer.
"""

import json
import sys
from dataclasses import replace

from first_steps import lay_out, train

from fugaku_jax.config import MeshConfig, config_from_dict

STEPS = 5


def main() -> None:
    """Save losses and gradient norms of every recipe, `many` and `one`."""
    found = {}
    for name, nested in json.loads(sys.argv[2]).items():
        config = config_from_dict(nested)
        meshes = {"many": config.mesh, "one": MeshConfig(data=1)}
        found[name] = {}
        for kind, mesh in meshes.items():
            run = replace(config, mesh=mesh)
            taken = train(lay_out(run), STEPS)
            found[name][kind] = {figure: taken[figure].tolist() for figure in ("losses", "norms")}
    with open(sys.argv[1], "w") as file:
        json.dump(found, file)


if __name__ == "__main__":
    main()
