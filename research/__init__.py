"""Meta-policy optimisation: tasks, policies, inner loops, algorithms, and the loop that trains them."""
