"""Studies that need no runs: exactly solvable problems, classical policies, and the coverage of intervals."""
