"""Train language models on CPU supercomputers: the successor of what trained Fugaku-LLM."""
