"""What was trained on: the records that let a token be followed back to its document."""
