"""One Sacred script for each algorithm, with its named configs."""
