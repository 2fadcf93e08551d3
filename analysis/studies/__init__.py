"""What is measured without runs: problems with exact answers, classical agents, and how well intervals cover."""
