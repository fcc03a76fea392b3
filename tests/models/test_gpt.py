"""The model, held to `transformers`, to Megatron's initial weights and to itself."""

import dataclasses
import functools
import math
import resource
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers_oracle import flat, in_torch, randomised, torch_gradients

from fugaku_jax.config import ModelConfig
from fugaku_jax.kernels.dropout import Dropout
from fugaku_jax.models.gpt import GPT
from fugaku_jax.models.size import flops_per_token, parameter_count

RECIPES = Path(__file__).parents[2] / "configs"
TINY = ModelConfig(vocab_size=97, n_layers=2, d_model=32, n_heads=2, sequence_length=12)
LLAMA = ModelConfig(
    vocab_size=97,
    n_layers=2,
    d_model=32,
    n_heads=4,
    n_kv_heads=2,
    sequence_length=12,
    family="llama",
    tied=False,
)
FP32, BF16 = jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)
SHAPES = {
    "vocabulary no multiple of 128": TINY,
    "head dim 144": ModelConfig(
        vocab_size=256, n_layers=2, d_model=288, n_heads=2, sequence_length=16
    ),
    "narrow feed-forward": ModelConfig(
        vocab_size=40, n_layers=1, d_model=16, n_heads=4, sequence_length=8, d_ff=24
    ),
    "untied": dataclasses.replace(TINY, tied=False),
    "llama": LLAMA,
    "llama, tied, all heads with keys of their own": dataclasses.replace(
        LLAMA, tied=True, n_kv_heads=None, rope_theta=500_000.0
    ),
}


def size_of_model(config: ModelConfig) -> int:
    model = jax.eval_shape(lambda: GPT(config, jax.random.key(0)))
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


def random_tokens(config: ModelConfig, batch: int, seed: int = 7):
    shape = (batch, config.sequence_length + 1)
    stream = np.random.default_rng(seed).integers(0, config.vocab_size, shape, np.int32)
    return stream[:, :-1], stream[:, 1:]


def loss_and_logits(params, graphdef, tokens, targets, **call):
    model = nnx.merge(graphdef, params)
    hidden = model(jnp.asarray(tokens), **call)
    return model.loss(hidden, jnp.asarray(targets))[0], model.logits(hidden)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def hidden_of(graphdef, params, tokens, dtype=FP32, remat="none", **call):
    return nnx.merge(graphdef, params)(jnp.asarray(tokens), dtype=dtype, remat=remat, **call)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("dtype", "remat"))
def value_and_gradients(graphdef, params, tokens, targets, **call):
    """Return ((loss, logits), gradients) as one compiled program, which tests share."""
    loss = jax.value_and_grad(functools.partial(loss_and_logits, **call), has_aux=True)
    return loss(params, graphdef, tokens, targets)


def loss_and_gradients(*batch, **call):
    (loss, _), gradients = value_and_gradients(*batch, **call)
    return loss, gradients


def relative_error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30)


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES.keys())
def test_logits_loss_and_gradients_equal_transformers(config):
    graphdef, params = randomised(config)
    tokens, targets = random_tokens(config, batch=2)
    hf = in_torch(params, config)
    theirs = hf(torch.from_numpy(tokens).long()).logits
    their_loss = torch.nn.functional.cross_entropy(
        theirs.flatten(0, 1), torch.from_numpy(targets).long().flatten(), reduction="sum"
    )
    their_loss.backward()

    (loss, logits), gradients = value_and_gradients(graphdef, params, tokens, targets)
    ours = np.asarray(logits)[..., : config.vocab_size]
    # Logits are of order 1; 1e-4 is some hundred roundings of fp32.
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-4, rtol=0)

    np.testing.assert_allclose(loss, their_loss.item(), rtol=1e-5)
    for name, theirs in torch_gradients(hf, params, config).items():
        assert relative_error(flat(gradients)[name], theirs) < 1e-3, name


def test_padding_rows_have_no_probability_and_no_gradient():
    graphdef, params = randomised(TINY)
    tokens, targets = random_tokens(TINY, batch=2)
    (_, logits), gradients = value_and_gradients(graphdef, params, tokens, targets)
    logits = np.asarray(logits)
    assert logits.shape[-1] == 128
    assert np.all(logits[..., TINY.vocab_size :] == -np.inf)
    assert np.all(np.isfinite(logits[..., : TINY.vocab_size]))
    table = np.asarray(flat(gradients)["tokens.table"])
    assert np.all(table[TINY.vocab_size :] == 0)
    assert np.all(np.any(table[: TINY.vocab_size] != 0, axis=1))


def test_the_13b_model_has_fugaku_llms_parameters_and_takes_no_memory():
    recipe = runpy.run_path(str(RECIPES / "fugaku_llm_13b.py"))["fugaku_llm_13b"]
    config = recipe().model
    shape = (config.n_layers, config.d_model, config.n_heads, config.sequence_length)
    assert shape == (40, 5184, 36, 2048)
    assert (config.head_dim, config.padded_vocab_size) == (144, 49_152)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert parameter_count(config) == size_of_model(config) == 13_167_577_728
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # ru_maxrss counts KiB on Linux. The weights would be 52 GB.
    assert grown < 200 * 1024


@pytest.mark.parametrize("name", SHAPES)
def test_parameter_count_is_what_a_model_has(name):
    assert parameter_count(SHAPES[name]) == size_of_model(SHAPES[name])


def test_flops_are_six_a_weight_and_attention_by_hand():
    # L 1, D 16, F 24, V 128 (40 padded), T 8: block 4*256 + 2*16*24 = 1792, output 2048.
    assert flops_per_token(SHAPES["narrow feed-forward"]) == 6 * (1792 + 2048) + 12 * 8 * 16


def test_llamas_flops_are_those_of_its_products_by_hand():
    # L 2, D 32, H 4, G 2, K 8, F 128, V 128 (97 padded), T 12.
    block = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 128
    assert flops_per_token(LLAMA) == 6 * (2 * block + 128 * 32) + 12 * 2 * 12 * 32


@pytest.mark.slow
def test_initial_weights_have_megatrons_standard_deviations():
    config = ModelConfig(
        vocab_size=1000, n_layers=8, d_model=128, n_heads=4, sequence_length=64, init_std=0.006
    )
    weights = flat(nnx.state(GPT(config, jax.random.key(3)), nnx.Param))
    output_std = config.init_std / math.sqrt(2 * config.n_layers)
    for name, value in weights.items():
        value = np.asarray(value)
        if name.endswith("bias"):
            assert np.all(value == 0), name
        elif name.endswith("scale"):
            assert np.all(value == 1), name
        else:
            is_output = name in ("blocks.attention_output.kernel", "blocks.down.kernel")
            std = output_std if is_output else config.init_std
            # The estimate of a standard deviation from n samples is off by std/sqrt(2n); the
            # smallest array has n = 8192, so 5 % is more than six of its deviations.
            np.testing.assert_allclose(value.std(), std, rtol=0.05, err_msg=name)
            assert abs(value.mean()) < 6 * std / math.sqrt(value.size), name


@pytest.mark.slow
def test_layers_are_initialised_differently():
    kernel = np.asarray(nnx.state(GPT(TINY, jax.random.key(0)))["blocks"]["up"]["kernel"][...])
    assert not np.array_equal(kernel[0], kernel[1])


@pytest.mark.slow
def test_recomputation_changes_no_gradient():
    config = dataclasses.replace(TINY, dropout=0.2)
    graphdef, params = randomised(config)
    batch = (graphdef, params, *random_tokens(config, batch=2))
    masks = Dropout(jax.random.key(5), config.sequence_length)
    loss, kept = loss_and_gradients(*batch, dropout=masks, remat="none")
    for remat in ("products", "block"):
        same_loss, gradients = loss_and_gradients(*batch, dropout=masks, remat=remat)
        np.testing.assert_allclose(same_loss, loss, rtol=1e-6)
        for name, ours in flat(gradients).items():
            # The same operations, fused differently: some roundings of fp32.
            assert relative_error(ours, flat(kept)[name]) < 1e-5, (remat, name)


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, LLAMA], ids=["gpt2", "llama"])
def test_reset_at_a_document_equals_running_documents_apart(config):
    graphdef, params = randomised(config)
    tokens, _ = random_tokens(config, batch=1)
    lengths = (4, 4, 4)
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])[None]
    segments = np.repeat(np.arange(3, dtype=np.int32), lengths)[None]
    packed = hidden_of(graphdef, params, tokens, positions=positions, segment_ids=segments)
    apart = hidden_of(graphdef, params, tokens.reshape(3, 4))
    np.testing.assert_allclose(np.asarray(packed).reshape(apart.shape), apart, atol=2e-5)
    unreset = np.asarray(hidden_of(graphdef, params, tokens)).reshape(apart.shape)
    assert not np.allclose(unreset[1:], apart[1:], atol=0.1)


@pytest.mark.parametrize("config", [TINY, LLAMA], ids=["gpt2", "llama"])
def test_a_token_changes_nothing_before_it(config):
    graphdef, params = randomised(config)
    tokens, _ = random_tokens(config, batch=1)
    changed = tokens.copy()
    changed[0, 6] = (changed[0, 6] + 1) % config.vocab_size
    before = hidden_of(graphdef, params, tokens)
    after = hidden_of(graphdef, params, changed)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert np.all(np.any(np.asarray(before[:, 6:] != after[:, 6:]), axis=-1))


def test_dropout_changes_the_output_only_when_masks_are_given():
    config = dataclasses.replace(TINY, dropout=0.5)
    graphdef, params = randomised(config)
    plain_graphdef, _ = randomised(TINY)
    tokens, _ = random_tokens(TINY, batch=1)

    def hidden(seed):
        masks = Dropout(jax.random.key(seed), config.sequence_length)
        return hidden_of(graphdef, params, tokens, dropout=masks)

    plain = hidden_of(graphdef, params, tokens)
    np.testing.assert_array_equal(plain, hidden_of(plain_graphdef, params, tokens))
    np.testing.assert_array_equal(hidden(0), hidden(0))
    assert not np.allclose(hidden(0), hidden(1))


@pytest.mark.slow
@pytest.mark.parametrize("config", [TINY, LLAMA], ids=["gpt2", "llama"])
def test_bf16_is_close_to_fp32_with_gradients_in_fp32(config):
    graphdef, params = randomised(config)
    batch = (graphdef, params, *random_tokens(config, batch=2))
    assert hidden_of(graphdef, params, batch[2], BF16).dtype == BF16
    wide, wide_gradients = loss_and_gradients(*batch)
    narrow, gradients = loss_and_gradients(*batch, dtype=BF16)
    # bf16 keeps 8 bits: 0.4 % an operation, some tens of them one after the other.
    np.testing.assert_allclose(narrow, wide, rtol=0.01)
    for name, value in flat(gradients).items():
        assert value.dtype == jnp.float32, name
        assert relative_error(value, flat(wide_gradients)[name]) < 0.1, name
