"""A run's directory: identity, figures, sessions, what lies in it."""
