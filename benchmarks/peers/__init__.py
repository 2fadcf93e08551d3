"""Twins of some of our iterations in JAX, and other environments, which run as processes of another interpreter.

`make peers` makes that environment, `.venv-peers`. Nothing here is imported by the library. `make bench ONLY=peers`
runs each twin and our own iteration in turns; `python -m benchmarks.peers.navigation --help` runs one alone.
"""
