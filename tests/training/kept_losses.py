"""Train a run on several meshes, keeping the losses of documents: FOLDER CONFIG MESHES, as JSON."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from fugaku_jax.config import MeshConfig, config_from_dict
from fugaku_jax.training.loop import train

if __name__ == "__main__":
    config = config_from_dict(json.loads(sys.argv[2]))
    for name, mesh in json.loads(sys.argv[3]).items():
        train(replace(config, mesh=MeshConfig(**mesh)), Path(sys.argv[1]) / name)
