"""Memory adaptation: a recurrent policy adapts to a task through its state (RL²)."""
