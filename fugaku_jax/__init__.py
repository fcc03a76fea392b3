"""Train language models on CPU supercomputers with JAX, the successor of what trained Fugaku-LLM."""
