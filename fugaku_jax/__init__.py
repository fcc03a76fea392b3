"""Train language models on CPU supercomputers: the successor of what trained Fugaku-LLM."""

from fugaku_jax.processor import widen_fused_loops

# Here, because XLA reads its flags once, when JAX starts its first backend.
widen_fused_loops()
