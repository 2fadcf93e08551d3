"""The commands of `python -m analysis` that read runs. Each module has a function `main(argv) -> int`."""
