"""The Tofu interconnect D as data: its torus, and how a job's nodes lie in it."""
