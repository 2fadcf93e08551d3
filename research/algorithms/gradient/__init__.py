"""Gradient adaptation: a policy adapts to a task by policy-gradient steps (MAML-TRPO, MAML-PPO, FOMAML, Reptile)."""
