"""The text of the built-in corpus: a small invented world, told in Japanese and in English."""
