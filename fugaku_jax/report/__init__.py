"""Reports of runs, from their directories; knows no JAX."""
