"""Plans a run without running it: pictures, memory, time."""
