"""Measurements of speed and memory: `python -m benchmarks [ONLY]`."""

MODULES = (
    "benchmarks.bench_maml_trpo",
    "benchmarks.bench_maml_ppo",
    "benchmarks.bench_growth",
    "benchmarks.bench_collect",
    "benchmarks.bench_inner_loops",
    "benchmarks.bench_rl2",
    "benchmarks.bench_rl2_memory",
    "benchmarks.bench_lookahead",
    "benchmarks.bench_dqn",
    "benchmarks.bench_peers",
    "benchmarks.bench_tracking",
    "benchmarks.bench_slurm",
    "benchmarks.bench_search",
    "benchmarks.bench_sharding",
    "benchmarks.bench_analysis",
    "benchmarks.bench_report",
)
"""Modules that register benchmarks, in the order of their execution."""
