"""What this package refuses to do."""


class SlurmError(ValueError):
    """Something that cannot be done: what it was, why, and what to do instead."""
