"""Runs drawn at random: a small model, its training, and a mesh, written as a command's flags.

Most that are drawn are legal; a few are not, and must be refused. A run is a dictionary of the
fields that differ from `SMALL`, so that one can be taken away after the other.
"""

import dataclasses
import math
import shlex
import sys
from pathlib import Path
from random import Random
from typing import Any

from fugaku_jax.config import Config, MeshConfig, config_from_dict, flat_fields
from fugaku_jax.sections.tuning import LORA_TARGETS

REPOSITORY = Path(__file__).parents[2]
sys.path.append(str(REPOSITORY / "launch"))

from recipes import load_recipe  # noqa: E402

Fields = dict[str, Any]

DEVICES = 16
"""Most devices of a mesh."""
STEPS = 3
"""Steps that are compared."""
WILD = 0.03
"""How often a number is drawn that need not fit the others."""

SMALL: Fields = {
    "model.n_layers": 2,
    "model.d_model": 16,
    "model.n_heads": 2,
    "model.sequence_length": 16,
    # Large enough that attention looks at some positions more than at others.
    "model.init_std": 0.1,
    # Keys have no gradient for their bias but rounding, which a small epsilon would blow up.
    "optimizer.epsilon": 1e-5,
    "optimizer.warmup_tokens": 0,
    "training.steps": STEPS,
    "training.batch_size": 2,
    "training.validation_tokens": 1,
    "training.sample_tokens": 0,
    "mesh.data": 1,
}
"""What all have of their own, beside what the recipe `tiny` says."""


def draw(random: Random) -> Fields:
    """Return a run."""
    degrees = _draw_degrees(random)
    mesh = degrees | _draw_mesh(random, degrees)
    model = _draw_model(random, mesh)
    training, tuning = _draw_training(random, mesh), _draw_tuning(random, model)
    if tuning.get("tuning.method") in ("dpo", "lora-dpo"):
        training |= {"data.learn": "answers", "data.reset_at_document": True}
        training |= {"training.z_loss": 0.0}
    drawn = model | training | tuning | mesh
    usual = flat_fields(config_of({}).to_dict())
    return {name: value for name, value in drawn.items() if value != usual[name]}


def config_of(fields: Fields) -> Config:
    """Return the configuration.

    Raises:
        InputError: a field has a value that no run may have.
    """
    nested = load_recipe("tiny").to_dict()
    for name, value in (SMALL | fields).items():
        section, field = name.split(".")
        nested[section][field] = value
    return config_from_dict(nested)


def on_one_device(config: Config) -> Config:
    """Return the run that learns the same on one device, in one micro-batch, keeping everything."""
    training = dataclasses.replace(config.training, micro_batches=1, remat="none")
    return dataclasses.replace(config, training=training, mesh=MeshConfig(data=1))


def command(fields: Fields) -> str:
    """Return the line that trains the run."""
    given = SMALL | fields
    degrees = (given.get(f"mesh.{kind}", 1) for kind in ("data", "tensor", "context", "pipeline"))
    words = ["python", "launch/train.py", "tiny", "--emulate-devices", str(math.prod(degrees))]
    for name, value in given.items():
        section, field = name.replace("_", "-").split(".")
        if isinstance(value, bool):
            words.append(f"--{section}.{field}" if value else f"--{section}.no-{field}")
        else:
            words += [f"--{name.replace('_', '-')}"]
            words += map(str, value if isinstance(value, list | tuple) else (value,))
    return shlex.join(words)


def _draw_degrees(random: Random) -> Fields:
    while True:
        degrees = {
            "mesh.data": random.choice((1, 1, 2, 3, 4)),
            "mesh.tensor": random.choice((1, 1, 2, 3, 4, 6)),
            "mesh.context": random.choice((1, 1, 1, 2, 3)),
            "mesh.pipeline": random.choice((1, 1, 2, 3, 4)),
        }
        if math.prod(degrees.values()) <= DEVICES:
            return degrees


def _draw_mesh(random: Random, degrees: Fields) -> Fields:
    tensor, stages = degrees["mesh.tensor"], degrees["mesh.pipeline"]
    fields: Fields = {
        "mesh.weights": random.choice(("replicated", "zero1", "fsdp")),
        "mesh.collective": random.choice(("flat", "torus")),
        "mesh.schedule": random.choice(("gpipe", "1f1b", "interleaved", "zero_bubble")),
        "mesh.sequence_parallel": random.random() < 0.4,
        "mesh.local": random.choice([n for n in (1, 1, 2, 3) if tensor % n == 0]),
        "mesh.recompute_stages": random.choice((0, 0, random.randint(0, stages))),
    }
    if fields["mesh.schedule"] == "interleaved":
        fields["mesh.chunks"] = random.choice((2, 2, 3))
    if random.random() < 0.25:
        nodes = math.prod(degrees.values()) // fields["mesh.local"]
        fields["mesh.shape"] = "x".join(map(str, _factors(random, nodes, 6)))
    return fields


def _draw_model(random: Random, mesh: Fields) -> Fields:
    tensor, context = mesh["mesh.tensor"], mesh["mesh.context"]
    family = random.choice(("gpt2", "llama"))
    ways = 1 if random.random() < WILD else tensor
    groups = ways * random.choice((1, 1, 2))
    shared = random.choice((1, 2, 3)) if family == "llama" else 1
    head_dim = random.choice((4, 6, 8) if family == "llama" else (4, 5, 8))
    positions = random.randint(1, 32) if random.random() < WILD else 4 * context
    runs = mesh["mesh.pipeline"] * mesh.get("mesh.chunks", 1)
    layers = runs + random.choice((-1, 0, 1, 2)) if random.random() < 0.8 else runs
    fields: Fields = {
        "model.family": family,
        "model.n_layers": max(layers, 1 if random.random() < WILD else runs),
        "model.n_heads": groups * shared,
        "model.d_model": groups * shared * head_dim,
        "model.sequence_length": positions * random.randint(1, max(32 // positions, 1)),
        "model.vocab_size": 4096 + random.choice((0, random.randint(1, 200))),
        "model.vocab_multiple": random.choice((1, 100, 128)),
        "model.tied": random.random() < 0.5,
        "model.dropout": random.choice((0.0, 0.0, 0.1)),
        "model.attention_dropout": random.choice((0.0, 0.0, 0.1)),
        "data.reset_at_document": random.random() < 0.5,
    }
    if shared > 1:
        fields["model.n_kv_heads"] = groups
    if random.random() < 0.7 or 64 % ways:  # of which LLaMA's own is a multiple
        fields["model.d_ff"] = ways * random.randint(3, 17)
    if random.random() < 0.3:
        fields["mesh.layers"] = _summands(random, fields["model.n_layers"], runs)
    return fields


def _draw_training(random: Random, mesh: Fields) -> Fields:
    micro_batches = random.choice((1, 2, 3, 4, 6))
    replicas = 1 if random.random() < WILD else mesh["mesh.data"]
    fields = {
        "training.micro_batches": micro_batches,
        "training.batch_size": micro_batches * replicas * random.choice((1, 2, 3)),
        "training.precision": random.choice(("fp32", "fp32", "fp32", "bf16", "fp16")),
        "training.remat": random.choice(("none", "products", "block")),
        "training.z_loss": random.choice((0.0, 1e-3)),
        "optimizer.schedule": random.choice(("cosine", "wsd")),
        "optimizer.warmup_tokens": random.choice((0, 0, 50)),
        "optimizer.clip": random.choice((0.0, 1.0)),
    }
    if fields["training.precision"] == "fp32":  # of little else than rounding lion takes the sign
        kinds = ("adamw", "adamw", "adamw", "adamw", "lion", "muon", "adafactor", "sgd")
        fields["optimizer.kind"] = random.choice(kinds)
    return fields


def _draw_tuning(random: Random, model: Fields) -> Fields:
    method = random.choice(("full", "full", "full", "lora", "dpo", "lora-dpo"))
    tuning = {"tuning.method": method, "tuning.beta": 0.3 if "dpo" in method else 0.1}
    if "lora" not in method:
        return tuning
    names = LORA_TARGETS[model["model.family"]]
    return tuning | {
        "tuning.rank": random.randint(1, 3),
        "tuning.alpha": random.choice((1.0, 8.0)),
        "tuning.targets": tuple(random.sample(names, random.randint(0, len(names)))),
    }


def _factors(random: Random, product: int, count: int) -> list[int]:
    factors = [1] * count
    divisor = 2
    while product > 1:
        while product % divisor == 0:
            factors[random.randrange(count)] *= divisor
            product //= divisor
        divisor += 1
    return factors


def _summands(random: Random, total: int, count: int) -> list[int]:
    summands = [1] * count
    for _ in range(total - count):
        summands[random.randrange(count)] += 1
    return summands
