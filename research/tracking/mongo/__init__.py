"""A copy of the records in a MongoDB, for what reads Sacred's MongoObserver, such as Omniboard.

`store` says what the database holds, `mirror` brings it up to date while a run runs, `sync` afterwards. A run that
names no database imports none of them, and no pymongo.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from research.tracking.mongo.mirror import Server

VARIABLE = "METAPOLICY_MONGO_URI"
"""Environment variable with the address of the database, which may hold a password."""


def find_server(option: str | None) -> Server | None:
    """The server that the option `-m`, or else METAPOLICY_MONGO_URI, names; None if neither does.

    Raises:
        ConfigError: The address is not that of a MongoDB.
    """
    address, source = (option, "-m") if option else (os.environ.get(VARIABLE), VARIABLE)
    if not address:
        return None
    from research.tracking.mongo.address import Address  # pymongo, which no other run should load
    from research.tracking.mongo.mirror import Server

    return Server(Address(address, source))
