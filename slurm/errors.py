"""The error of this package."""


class SlurmError(ValueError):
    """A request that cannot be carried out. The message names it, the reason and the fix."""
