"""The figures of the RL² paper: mean total rewards over 1,000 bandits and 1,000 MDPs.

Duan, Schulman, Chen, Bartlett, Sutskever & Abbeel 2016, arXiv:1611.02779, tables 1 and 2. Rounded to 0.1 there.
"""

from __future__ import annotations

INSTANCES = 1000
"""The number of bandits or MDPs that a figure averages."""

PULLS, ARMS = (10, 100, 500), (5, 10, 50)
EPISODES = (10, 25, 50, 75, 100)

BANDITS: dict[str, dict[tuple[int, int], float]] = {
    name: dict(zip([(arms, pulls) for pulls in PULLS for arms in ARMS], values, strict=True))
    for name, values in {
        "random": (5.0, 5.0, 5.1, 49.9, 49.9, 49.8, 249.8, 249.0, 249.6),
        "gittins": (6.6, 6.6, 6.5, 78.3, 82.8, 85.2, 405.8, 437.8, 463.7),
        "thompson": (5.7, 5.5, 5.2, 74.7, 76.7, 64.5, 402.0, 429.5, 427.2),
        "optimistic_thompson": (6.5, 6.2, 5.5, 77.9, 81.4, 67.7, 406.7, 438.9, 437.6),
        "ucb1": (6.7, 6.7, 6.6, 78.0, 82.4, 84.3, 405.8, 437.1, 457.6),
        "epsilon_greedy": (6.6, 6.6, 6.5, 75.4, 77.4, 78.3, 388.2, 408.0, 413.6),
        "greedy": (6.6, 6.6, 6.5, 74.8, 77.1, 78.0, 380.6, 395.0, 402.8),
        "rl2": (6.7, 6.7, 6.8, 78.7, 83.5, 84.9, 401.6, 432.5, 438.9),
    }.items()
}
"""Column → (arms, pulls) → total reward. Table 1."""

MDPS: dict[str, dict[int, float]] = {
    name: dict(zip(EPISODES, values, strict=True))
    for name, values in {
        "random": (100.1, 250.2, 499.7, 749.9, 999.4),
        "psrl": (138.1, 408.8, 904.4, 1417.1, 1939.5),
        "optimistic_psrl": (144.1, 425.2, 930.7, 1449.2, 1973.9),
        "ucrl2": (146.6, 424.1, 918.9, 1427.6, 1942.1),
        "beb": (150.2, 427.8, 917.8, 1422.6, 1935.1),
        "epsilon_greedy": (132.8, 377.3, 823.3, 1293.9, 1778.2),
        "greedy": (134.8, 368.8, 769.3, 1172.9, 1578.5),
        "rl2": (156.2, 445.7, 936.1, 1428.8, 1913.7),
    }.items()
}
"""Column → episodes → total reward. Table 2."""
