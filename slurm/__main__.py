"""`python -m slurm`; see `slurm.cli`."""

from __future__ import annotations

import sys

from research.streams import prepare_streams
from slurm.cli import main

if __name__ == "__main__":
    prepare_streams()
    sys.exit(main(sys.argv[1:]))
