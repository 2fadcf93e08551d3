"""Supervised adaptation: a regression network adapts to a function from a few points of it (MAML, Reptile)."""
