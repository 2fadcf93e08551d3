"""`python -m research.tracking`: see `mongo.sync`."""

import sys

from research.tracking.mongo.sync import main

if __name__ == "__main__":
    sys.exit(main())
