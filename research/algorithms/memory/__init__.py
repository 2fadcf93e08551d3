"""Memory adaptation: a recurrent policy adapts to a task through its hidden state (RL²)."""
