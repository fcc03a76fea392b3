"""Which documents a run learned from, and when: answers from its ledger, store and order."""
