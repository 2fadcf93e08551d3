#!/bin/sh
# Prints, within five minutes, the figures of docs/results/gpu.md as tables: RL², MAML-TRPO and DQN on a GPU, the CPU
# next to it, and where the CPU is better.
#
#   benchmarks/gpu.sh                        on cuda, all sizes
#   benchmarks/gpu.sh --device cpu --quick   the same with tiny sizes, without a GPU: whether it runs
#
# PYTHON=/path/to/python chooses the interpreter; else it is that of .venv, which `make run` makes.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
exec "$python" -m benchmarks.gpu "$@"
