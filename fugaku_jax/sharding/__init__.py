"""The logical six-dimensional device mesh and what its axes carry."""
