"""`python -m slurm`; see `slurm.cli`."""

from __future__ import annotations

import sys

from slurm.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
