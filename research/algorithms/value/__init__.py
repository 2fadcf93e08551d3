"""Value adaptation: an action-value network adapts to a task by temporal-difference steps (the DQN family)."""
