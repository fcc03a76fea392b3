"""The weights in a checkpoint, read piece by piece rather than loaded."""

from pathlib import Path

import numpy as np
import tensorstore as ts
from jaxtyping import Shaped

from fugaku_jax.errors import InputError
from fugaku_jax.interop.hf_weights import Tensor
from fugaku_jax.training.checkpoint import RunCheckpoints


class SavedWeights:
    """The parameters in a run's newest checkpoint."""

    def __init__(self, run_dir: Path) -> None:
        """Find the checkpoint.

        Raises:
            InputError: nothing was saved yet.
        """
        with RunCheckpoints(run_dir) as checkpoints:
            step = checkpoints.latest_step()
        if step is None:
            raise InputError(f"{run_dir} has no checkpoint yet; train it first.")
        self.step = step
        """Steps that were taken before it was saved."""
        self._base = (run_dir / "checkpoints" / str(step) / "state").resolve().as_uri() + "/"

    def read(self, tensor: Tensor) -> Shaped[np.ndarray, "..."]:
        """Read a tensor of Hugging Face's, and no more than the parts of the array that hold it."""
        place = {"driver": "ocdbt", "base": self._base, "path": f"{self._name(tensor)}/"}
        array = ts.open({"driver": "zarr3", "kvstore": place}, open=True, read=True).result()
        return tensor.export(array)

    def _name(self, tensor: Tensor) -> str:
        return ".".join(("parameters", *tensor.path))  # as Orbax names them
