"""How large a model is, and what arithmetic it takes, from its configuration alone."""

from fugaku_jax.config import ModelConfig


def parameter_count(config: ModelConfig) -> int:
    """Count the parameters.

    The vocabulary's padding counts; rows that a mesh adds to divide it do not.
    """
    width, is_gpt2 = config.d_model, config.family == "gpt2"
    norm = 2 * width if is_gpt2 else width
    # Biases of queries, keys and values, of attention's output, and of the feed-forward layer.
    biases = 3 * width + width + config.feed_forward + width if is_gpt2 else 0
    blocks = config.n_layers * (_products_of_block(config) + biases + 2 * norm)
    tables = config.padded_vocab_size * (1 if config.tied else 2)
    positions = config.sequence_length if is_gpt2 else 0
    return blocks + norm + (tables + positions) * width


def flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations of forward and backward pass a token, recomputation not counted.

    Six for each weight of a product (the output matrix among them, padding included) and 12 L T D
    for attention's two products over the whole square of positions.
    Source: Chowdhery et al., "PaLM", 2022, appendix B.
    """
    width, layers = config.d_model, config.n_layers
    weights = layers * _products_of_block(config) + config.padded_vocab_size * width
    return 6 * weights + 12 * layers * config.sequence_length * width


def _products_of_block(config: ModelConfig) -> int:
    """Weights of a block that are a matrix of a product."""
    width = config.d_model
    attention = 2 * width * (config.n_heads + config.kv_heads) * config.head_dim
    return attention + (3 if config.family == "llama" else 2) * width * config.feed_forward
