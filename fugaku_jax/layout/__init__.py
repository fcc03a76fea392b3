"""Where everything lies: the mesh, what its axes carry, stages, placements."""
