"""Prepares corpora: read, normalised, filtered, masked, freed of copies. See docs/corpora.md."""
