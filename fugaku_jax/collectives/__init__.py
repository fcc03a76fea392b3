"""Sums, scatters and gathers over mesh axes."""
