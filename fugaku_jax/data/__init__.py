"""From documents to batches: corpus, tokenizer, store, order, loader. See `docs/data.md`."""
