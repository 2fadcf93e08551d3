"""The commands of `python -m analysis` that read runs: a module each, with `main(argv) -> int`."""
