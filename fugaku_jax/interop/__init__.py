"""To other projects' formats and back."""
