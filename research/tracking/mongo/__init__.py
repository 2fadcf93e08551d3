"""A copy of the records in MongoDB."""
