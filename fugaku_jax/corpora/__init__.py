"""Corpora prepared for training: read, normalised, filtered, masked, without copies. docs/corpora.md."""
