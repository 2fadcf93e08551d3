"""Run records as DataFrames: where they are read, chosen and joined into groups."""
