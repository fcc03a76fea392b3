"""Checkpoints as Megatron-LM and Megatron-DeepSpeed write them, made from a model in PyTorch.

Written from the formats' description, not from our reader: the model's weights are cut up by the
rules of tensor parallelism, QKV is ordered as each version has it.
"""

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

HEADS, HEAD_DIM, LAYERS, VOCAB, POSITIONS = 6, 8, 4, 97, 16
WIDTH = HEADS * HEAD_DIM
PADDING = 1e3
"""What stands in the embedding's padding rows: enough to be seen in any logit."""


def make_model() -> GPT2LMHeadModel:
    """Return a model all of whose weights, biases too, are random."""
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=POSITIONS
    )
    model = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def args_of(tensor: int, stages: int) -> argparse.Namespace:
    """Return the arguments that a training would have been started with."""
    return argparse.Namespace(
        num_layers=LAYERS,
        hidden_size=WIDTH,
        ffn_hidden_size=4 * WIDTH,
        num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS,
        layernorm_epsilon=1e-5,
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=stages,
        bias_gelu_fusion=True,
        params_dtype=torch.float32,
    )


def layer_of(model: GPT2LMHeadModel, layer: int, rank: int, ranks: int, version: float) -> dict:
    """Return a tensor rank's share of a layer, `[out, in]`."""
    block = model.transformer.h[layer]

    def mine(x: torch.Tensor, dim: int) -> torch.Tensor:
        return x.chunk(ranks, dim)[rank].contiguous()

    def heads(x: torch.Tensor) -> torch.Tensor:
        """`x` has the outputs query, key, value first, all heads of each."""
        split = mine(x.reshape(3, HEADS, HEAD_DIM, *x.shape[1:]), 1)
        if version >= 2:
            split = split.transpose(0, 1)  # [heads, 3, head_dim, ...]
        elif version == 1:
            split = split.movedim(0, 2)  # [heads, head_dim, 3, ...]
        return split.reshape(-1, *x.shape[1:]).contiguous()

    def norm(name: str, module: Any) -> dict:
        return {f"{name}.weight": module.weight, f"{name}.bias": module.bias}

    attention, mlp = block.attn, block.mlp
    return {
        **norm("input_layernorm", block.ln_1),
        "self_attention.query_key_value.weight": heads(attention.c_attn.weight.T),
        "self_attention.query_key_value.bias": heads(attention.c_attn.bias),
        "self_attention.dense.weight": mine(attention.c_proj.weight.T, 1),
        "self_attention.dense.bias": attention.c_proj.bias,
        **norm("post_attention_layernorm", block.ln_2),
        "mlp.dense_h_to_4h.weight": mine(mlp.c_fc.weight.T, 0),
        "mlp.dense_h_to_4h.bias": mine(mlp.c_fc.bias, 0),
        "mlp.dense_4h_to_h.weight": mine(mlp.c_proj.weight.T, 1),
        "mlp.dense_4h_to_h.bias": mlp.c_proj.bias,
    }


def vocabulary_of(model: GPT2LMHeadModel, rank: int, ranks: int) -> torch.Tensor:
    """Return a tensor rank's rows of the embedding, padded to a multiple of 8 rows a rank."""
    missing = -VOCAB % (8 * ranks)
    padded = torch.cat([model.transformer.wte.weight, torch.full((missing, WIDTH), PADDING)])
    return padded.chunk(ranks)[rank].contiguous()


def write_megatron_lm(
    folder: Path, model: GPT2LMHeadModel, version: float, tensor: int = 1, stages: int = 1
) -> None:
    """Write `iter_0000100/mp_rank_TT[_PPP]/model_optim_rng.pt` and the file that names it."""
    (folder / "iter_0000100").mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("100")
    each = LAYERS // stages
    for rank in range(tensor):
        for stage in range(stages):
            encoder = OrderedDict()
            for layer in range(each):
                found = layer_of(model, stage * each + layer, rank, tensor, version)
                encoder |= {f"layers.{layer}.{name}": x for name, x in found.items()}
            vocabulary = {"weight": vocabulary_of(model, rank, tensor)}
            language_model, head = {"encoder" if version >= 2 else "transformer": encoder}, {}
            if stage == 0:
                language_model["embedding"] = {
                    "word_embeddings": vocabulary,
                    "position_embeddings": {"weight": model.transformer.wpe.weight},
                }
            if stage == stages - 1:
                encoder["final_layernorm.weight"] = model.transformer.ln_f.weight
                encoder["final_layernorm.bias"] = model.transformer.ln_f.bias
                head = {"word_embeddings_for_head": vocabulary} if stages > 1 else {}
            content = {
                "args": args_of(tensor, stages),
                "iteration": 100,
                "model": {"language_model": language_model, **head},
                "rng_state": [{"np_rng_state": np.random.default_rng(0).bit_generator.state}],
            }
            if version:
                content["checkpoint_version"] = version
            name = f"mp_rank_{rank:02}" + (f"_{stage:03}" if stages > 1 else "")
            (folder / "iter_0000100" / name).mkdir()
            torch.save(content, folder / "iter_0000100" / name / "model_optim_rng.pt")


def write_deepspeed_pipeline(
    folder: Path, model: GPT2LMHeadModel, version: float, tensor: int = 1
) -> None:
    """Write `global_step100` with a file for each layer, as DeepSpeed's pipeline does."""
    step = folder / "global_step100"
    step.mkdir(parents=True)
    (folder / "latest").write_text("global_step100")
    for rank in range(tensor):
        # Layers 0, 2 and those after the last are functions without weights.
        files = {3 + n: layer_of(model, n, rank, tensor, version) for n in range(LAYERS)}
        embedding = {
            "word_embeddings.weight": vocabulary_of(model, rank, tensor),
            "position_embeddings.weight": model.transformer.wpe.weight,
        }
        norm = {"weight": model.transformer.ln_f.weight, "bias": model.transformer.ln_f.bias}
        files |= {1: embedding, LAYERS + 4: norm}
        for number, content in files.items():
            torch.save(content, step / f"layer_{number:02}-model_{rank:02}-model_states.pt")
        state = {"module": None, "args": args_of(tensor, 2), "checkpoint_version": version}
        torch.save(state, step / f"mp_rank_{rank:02}_model_states.pt")
