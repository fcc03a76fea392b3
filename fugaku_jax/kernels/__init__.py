"""The operations of the model, one a file, each with a reference in plain `jnp`."""
