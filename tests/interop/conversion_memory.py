"""Convert a large model there and back and print what each way had in memory at most.

Run by `test_conversion_memory.py` with two smaller layers of the true width; `python
conversion_memory.py FOLDER` does it with all of Fugaku-LLM (26 GB of disk). The model is a sparse
file of zeros, in bf16.
"""

import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax

from fugaku_jax.config import ModelConfig
from fugaku_jax.data.tokenizer import Tokenizer, train
from fugaku_jax.interop.hf import export_run
from fugaku_jax.interop.hf_config import to_hf_config
from fugaku_jax.interop.hf_import import open_hf
from fugaku_jax.interop.hf_weights import tensors
from fugaku_jax.interop.import_run import import_run

FUGAKU_LLM = ModelConfig(
    vocab_size=48_586, n_layers=40, d_model=5184, n_heads=36, sequence_length=2048
)


def write_sparse(folder: Path, model: ModelConfig, tokenizer: Tokenizer) -> None:
    """Write a model directory whose weights take no room on the disk."""
    folder.mkdir()
    header, end = {}, 0
    for tensor in tensors(model):
        size = 2
        for n in tensor.shape:
            size *= n
        place = [end, end + size]
        header[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": place}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(to_hf_config(model, 2, [2], "bfloat16")))
    (folder / "tokenizer.model").write_bytes(tokenizer.model_bytes)


def main() -> None:
    """Do one of the steps, or all in processes of their own."""
    folder = Path(sys.argv[1])
    step = sys.argv[2] if len(sys.argv) > 2 else "all"
    small = replace(FUGAKU_LLM, n_layers=2, vocab_size=1000, d_ff=FUGAKU_LLM.d_model)
    sparse, run, out = folder / "sparse", folder / "run", folder / "out"
    if step in ("all", "small"):
        tokenizer = train([f"the rain in Spain {n}" for n in range(99)], 295)
        write_sparse(sparse, small if step == "small" else FUGAKU_LLM, tokenizer)
        for each in ("from-hf", "to-hf"):
            subprocess.run([sys.executable, __file__, folder, each], check=True)
        return
    jax.block_until_ready(jax.numpy.zeros(1))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    if step == "from-hf":
        import_run(open_hf(sparse), run)
    else:
        export_run(run, out, None, "bfloat16", 5 * 10**9)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.perf_counter() - start
    figures = {"before_bytes": before * 1024, "peak_bytes": peak * 1024, "seconds": seconds}
    print(json.dumps({"step": step} | figures), flush=True)


if __name__ == "__main__":
    main()
