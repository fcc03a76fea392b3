"""The sections of a configuration, a frozen dataclass each."""
