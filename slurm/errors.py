"""The error of an impossible request, with a message for a person."""


class SlurmError(ValueError):
    """Something that cannot be done: what it was, why, and what to do instead."""
