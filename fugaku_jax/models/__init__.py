"""The language model and its layers."""
