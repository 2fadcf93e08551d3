"""The address of a MongoDB, read by the driver's own parser and by no other."""

from __future__ import annotations

import warnings
from typing import Any

from pymongo import MongoClient, ReadPreference
from pymongo.database import Database
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from research.conversion import ConfigError

SCHEMES = ("mongodb://", "mongodb+srv://")
_FORM = "mongodb://user:password@host:27017/database"


class Address:
    """The address of a database. It may contain a password, so no message contains it.

    Args:
        text: `mongodb://user:password@host:27017/database`, or `host:port:database` as in Sacred's `-m`; the default
            database is `sacred`.
        source: The option or variable that holds the address, for messages.

    Attributes:
        database: Name of the database.
        place: Host and port, for messages.

    Raises:
        ConfigError: The address is not that of a MongoDB.
    """

    def __init__(self, text: str, source: str):
        self.source = source
        self._text = text if text.startswith(SCHEMES) else _from_sacred(text, source)
        self.database, self.place = self._parse()
        self.connect().client.close()  # checks the options

    def connect(self, **options: Any) -> Database[dict[str, Any]]:
        """Returns the database. Nothing is sent yet.

        Args:
            options: Keyword arguments of `MongoClient`; they override those of the address.

        Raises:
            ConfigError: The address is not that of a MongoDB.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # an unknown option
                client: MongoClient[dict[str, Any]] = MongoClient(self._text, connect=False, **options)
            database = client.get_database(self.database, read_preference=ReadPreference.PRIMARY)
        except (PyMongoError, ValueError, TypeError, OSError, Warning) as error:
            problem = _problem(error)
        else:
            if client.write_concern.acknowledged:
                return database
            client.close()
            problem = "w=0: need at least 1, or lost data are not noticed"
        raise self._error(problem)  # outside the handler, because the caught error contains the address

    def _parse(self) -> tuple[str, str]:
        """Returns the name of the database, and its hosts. Asks no name server, also for `mongodb+srv`."""
        scheme, _, rest = self._text.partition("://")
        if "@" in rest.partition("?")[0].partition("/")[2]:  # of a password with a slash, and no name of a database
            raise self._error("an @ behind the first slash")
        try:
            found = parse_uri("mongodb://" + rest.partition("?")[0])
        except (PyMongoError, ValueError) as error:
            problem = _problem(error)
        else:
            if found["collection"] is not None:
                name = f"{found['database']}.{found['collection']}"
                raise self._error(f"database {name!r}: need a name without dots")
            is_service = scheme.endswith("+srv")
            hosts = (host if port is None or is_service else f"{host}:{port}" for host, port in found["nodelist"])
            return found["database"] or "sacred", ",".join(hosts)
        raise self._error(problem)

    def _error(self, problem: str) -> ConfigError:
        return ConfigError(
            f"{self.source}: no address of a MongoDB server ({problem}); need {_FORM}, special characters of user and"
            " password percent-encoded: / is %2F, @ is %40, : is %3A, ? is %3F, % is %25"
        )


def _problem(error: Exception) -> str:
    """Returns a description of an error that contains no part of the address."""
    if isinstance(error, OSError):
        return f"a file that its options name, such as tlsCAFile, cannot be read: {error.strerror or 'not valid'}"
    return "an option is unknown or invalid" if isinstance(error, Warning) else type(error).__name__


def _from_sacred(text: str, source: str) -> str:
    """Returns the address that Sacred's `[host:port:]database` or `host:port` stands for."""
    parts = text.split(":")
    if len(parts) == 2 and parts[1].isdigit():
        parts = [*parts, "sacred"]
    if len(parts) == 1:
        parts = ["localhost", "27017", *parts]
    if len(parts) != 3 or not parts[1].isdigit() or any(sign in text for sign in "@/ ?#"):
        raise ConfigError(f"{source}: need {_FORM} or [host:port:]database")
    return "mongodb://{}:{}/{}".format(*parts)
