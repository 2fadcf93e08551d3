"""`python -m research.tracking`: see `mongo.sync`."""

import sys

from research.streams import prepare_streams
from research.tracking.mongo.sync import main

if __name__ == "__main__":
    prepare_streams()
    sys.exit(main())
