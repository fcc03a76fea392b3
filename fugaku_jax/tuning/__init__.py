"""Teaching a trained model to answer: dialogues, how they are told to it, and what it learns."""
