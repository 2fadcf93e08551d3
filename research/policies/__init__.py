"""Policies and baselines: modules that know no environment and no loss."""
