"""Commands of `python -m analysis` that read runs or only settings. Each module has a function `main(argv) -> int`."""
