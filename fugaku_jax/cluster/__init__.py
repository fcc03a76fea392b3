"""Processes: how a job's hosts find each other, and who of them writes; no arrays."""
