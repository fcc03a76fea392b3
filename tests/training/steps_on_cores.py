"""Take the first steps of some runs on one device; save all that they leave.

Run by `test_cores.py`, since the cores are counted when JAX starts:
`python steps_on_cores.py OUT.npz '{"name": {"model": {...}, "training": {...}}, ...}'`.
"""

import json
import sys

import numpy as np
from first_steps import lay_out, train
from meshes import make_config

STEPS = 3


def main() -> None:
    """Save every run's arrays under `name/...`."""
    saved = {}
    for name, case in json.loads(sys.argv[2]).items():
        config = make_config({"data": 1}, case.get("model", {}), case.get("training", {}))
        saved |= {f"{name}/{key}": value for key, value in train(lay_out(config), STEPS).items()}
    np.savez(sys.argv[1], **saved)


if __name__ == "__main__":
    main()
