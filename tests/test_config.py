"""Configurations refuse what cannot be, and survive JSON."""

import dataclasses
import json

import pytest

from fugaku_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainingConfig,
    TuningConfig,
    config_from_dict,
    flat_fields,
)
from fugaku_jax.errors import InputError

SECTIONS = {
    "model": ModelConfig(vocab_size=97, n_layers=2, d_model=32, n_heads=4, sequence_length=12),
    "optimizer": OptimizerConfig(learning_rate=1e-3),
    "training": TrainingConfig(steps=10, batch_size=8, micro_batches=2),
    "data": DataConfig(),
    "mesh": MeshConfig(),
    "checkpoint": CheckpointConfig(),
    "tuning": TuningConfig(),
}
CONFIG = Config(**SECTIONS)

WRONG = [
    *[(f"model.{name}", 0) for name in ("vocab_size", "n_layers", "d_model", "sequence_length")],
    ("model.n_heads", -1),
    ("model.n_heads", 5),
    ("model.n_kv_heads", 2),  # GPT-2 knows none
    ("model.rope_theta", 0.0),
    ("model.family", "bert"),
    ("model.d_ff", 0),
    ("mesh.data", 0),
    ("mesh.tensor", -2),
    ("mesh.chunks", 2),
    ("mesh.local", 2),
    ("mesh.recompute_stages", -1),
    ("mesh.layers", (2, 0)),
    ("mesh.weights", "sharded"),  # what `fsdp` was called
    ("mesh.schedule", "dualpipe"),
    ("mesh.collective", "ring"),
    ("model.dropout", 1.0),
    ("model.dropout", -0.1),
    ("model.attention_dropout", 1.5),
    ("model.init_std", 0.0),
    ("model.layer_norm_epsilon", 0.0),
    ("model.vocab_multiple", 0),
    ("optimizer.learning_rate", 0.0),
    ("optimizer.min_learning_rate", -1e-5),
    ("optimizer.min_learning_rate", 1e-2),
    ("optimizer.warmup_tokens", -1),
    ("optimizer.decay_tokens", 0),
    ("optimizer.beta1", 1.0),
    ("optimizer.beta2", 1.0),
    ("optimizer.epsilon", 0.0),
    ("optimizer.weight_decay", -0.1),
    ("optimizer.clip", -1.0),
    ("optimizer.kind", "lyon"),
    ("training.steps", 0),
    ("training.batch_size", 0),
    ("training.micro_batches", 0),
    ("training.micro_batches", 3),
    ("training.z_loss", -1e-4),
    ("training.seed", -1),
    ("training.validate_every", -1),
    ("training.validation_tokens", 0),
    ("training.sample_every", -1),
    ("training.sample_tokens", -1),
    ("training.stop_after", 0),
    ("training.stop_before_limit", -1),
    ("training.hang_seconds", -1),
    ("training.precision", "fp8"),
    ("training.remat", "all"),
    ("data.store", ""),
    ("data.seed", -1),
    ("data.prefetch", 0),
    ("data.prompt_weight", 0.1),  # where all tokens are learned
    ("checkpoint.every", 0),
    ("checkpoint.keep", 0),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda x: str(x))
def test_a_wrong_value_is_named_with_its_field_and_what_is_allowed(path, value):
    section, field = path.split(".")
    with pytest.raises(InputError) as error:
        dataclasses.replace(SECTIONS[section], **{field: value})
    sentence = str(error.value)
    assert sentence.startswith(f"{path} is {value!r}, but it must ")
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_heads_that_do_not_divide_the_width_are_told_the_width():
    with pytest.raises(InputError, match=r"divide model\.d_model, which is 32"):
        dataclasses.replace(SECTIONS["model"], n_heads=5)


LLAMA = dataclasses.replace(SECTIONS["model"], family="llama", n_kv_heads=2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n_kv_heads": 3}, "model.n_kv_heads is 3, but it must be a divisor of model.n_heads, 4."),
        ({"n_kv_heads": 0}, "model.n_kv_heads is 0, but it must be a divisor of model.n_heads, 4."),
        ({"d_model": 36}, "model.n_heads is 4, .* such that a head has an even width, not 9."),
    ],
)
def test_what_llama_cannot_be_is_named(change, sentence):
    with pytest.raises(InputError, match=sentence):
        dataclasses.replace(LLAMA, **change)


@pytest.mark.parametrize(("width", "hidden"), [(768, 2048), (4096, 10_944), (24, 64)])
def test_llamas_feed_forward_layer_is_two_thirds_of_gpt2s(width, hidden):
    assert dataclasses.replace(LLAMA, d_model=width).feed_forward == hidden


@pytest.mark.parametrize("padded", [(97, 128), (128, 128), (129, 256)])
def test_the_vocabulary_is_padded_up_to_its_multiple(padded):
    model = dataclasses.replace(SECTIONS["model"], vocab_size=padded[0])
    assert model.padded_vocab_size == padded[1]


def test_a_configuration_survives_json():
    prompts = ("昔々", "Once")
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, d_ff=77, dropout=0.1),
        training=dataclasses.replace(CONFIG.training, prompts=prompts, stop_after=3),
    )
    rebuilt = config_from_dict(json.loads(json.dumps(config.to_dict())))
    assert rebuilt == config
    assert hash(rebuilt) == hash(config)


def test_a_file_that_calls_fsdp_sharded_weights_is_read():
    nested = CONFIG.to_dict() | {"mesh": {"data": 4, "weights": "sharded"}}
    assert config_from_dict(nested).mesh == MeshConfig(data=4, weights="fsdp")
    assert nested["mesh"]["weights"] == "sharded"


@pytest.mark.parametrize("removed", ["bucket", "turned"])
def test_a_file_that_names_a_way_of_summing_that_is_no_more_is_read_with_the_default(removed):
    nested = CONFIG.to_dict() | {"mesh": {"data": 4, "collective": removed}}
    assert config_from_dict(nested).mesh == MeshConfig(data=4)
    with pytest.raises(
        InputError, match=f"mesh.collective is '{removed}', but it must be torus or flat"
    ):
        MeshConfig(collective=removed)


@pytest.mark.parametrize(
    ("section", "change"),
    [("model", {"depth": 3}), ("training", {"stepz": 3}), ("hardware", {"nodes": 3})],
)
def test_an_unknown_field_is_wrong_input(section, change):
    nested = CONFIG.to_dict()
    nested[section] = nested.get(section, {}) | change
    with pytest.raises(InputError, match=section if section == "hardware" else next(iter(change))):
        config_from_dict(nested)


def test_a_missing_field_or_section_is_wrong_input():
    nested = CONFIG.to_dict()
    del nested["model"]["n_layers"]
    with pytest.raises(InputError, match="n_layers"):
        config_from_dict(nested)
    del nested["training"]
    with pytest.raises(InputError, match="training"):
        config_from_dict(nested)


def test_fields_flatten_to_dotted_paths():
    flat = flat_fields(CONFIG.to_dict())
    assert flat["model.n_layers"] == 2
    assert flat["training.prompts"] == list(CONFIG.training.prompts)
    assert len(flat) == sum(len(dataclasses.fields(section)) for section in SECTIONS.values())


def test_tokens_are_batch_times_length_times_steps():
    assert (CONFIG.tokens_per_step, CONFIG.total_tokens) == (8 * 12, 8 * 12 * 10)
