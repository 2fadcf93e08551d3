"""Runs that go on with the state of another run and with other settings: `ensure --adopt=FILE`.

The file names two checkpoints of the same iteration, that of the donor and the last one of the run itself, and has
notes for the record. The command line has the settings with which the run goes on. It may be repeated: a run that was
killed before it has saved a later state adopts again, and one that has saved a later state has adopted already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from research import checkpoint
from research.checkpoint import Checkpoint, CheckpointError
from research.conversion import ConfigError, flatten, from_mapping, merge, to_mapping
from research.files import write_json
from research.population.adopting import allows, refuse_other_changes
from research.tracking.place import Place
from research.tracking.records import read_object, read_run, to_json
from research.tracking.settings import Settings
from research.validation import recorded

LINEAGE = "lineage.json"
"""File of a record with the notes on each adoption, in their order."""


@dataclass(frozen=True)
class Adoption:
    """Contents of the file.

    Attributes:
        donor: Path of the checkpoint whose state the run takes over.
        own: Path of the last checkpoint of the run itself.
        note: Notes for the record: `generation`, and what else there is to say.
    """

    donor: str
    own: str
    note: dict[str, Any] = field(default_factory=dict)


class Adopted(NamedTuple):
    """The states and settings with which a run goes on.

    Attributes:
        donor: The checkpoint of the donor.
        own: The last checkpoint of the run itself.
        before: Its settings up to there.
        settings: The settings with which it goes on.
        note: Notes for the record.
    """

    donor: Checkpoint
    own: Checkpoint
    before: dict[str, Any]
    settings: dict[str, Any]
    note: dict[str, Any]


def find_adopted(path: Path, name: str, settings: Settings, given: Mapping[str, Any], place: Place) -> Adopted | None:
    """Returns what a run goes on with; None if it has gone on already.

    Args:
        path: The file.
        name: Name of the algorithm.
        settings: The settings of the experiment.
        given: Nested plain values from the command line.
        place: The record of the run, whose lock is held.

    Raises:
        ConfigError: The file is wrong, or a setting differs that cannot change while a run trains.
        CheckpointError: A checkpoint cannot be used.
        RecordError: A file of the record is damaged or missing.
    """
    adoption = from_mapping(Adoption, read_object(path))
    own = checkpoint.load(adoption.own)
    latest = place.directory / "checkpoints" / "latest.pt"
    if latest.exists() and checkpoint.load(latest).iteration > own.iteration:
        return None
    donor = checkpoint.load(adoption.donor)
    for found in (own, donor):
        found.require_algorithm(name)
    if own.record.get("uid") != read_run(place.directory).get("uid"):
        raise CheckpointError(f"{own.path} was written by another run than {place.directory}; need its own checkpoint")
    before = own.config
    config_class = settings.class_of(before)
    with recorded(before):
        after = to_mapping(settings.typed(merge(before, given))[0])
    was, now = flatten(before), flatten(after)
    for key in sorted(key for key in was.keys() & now.keys() if was[key] != now[key]):
        if key == "seed" or not allows(config_class, key):
            allowed = ", ".join(sorted(config_class.mutable_settings)) or "none of this algorithm"
            raise ConfigError(f"{key}={now[key]!r}: {place.directory} was trained with {was[key]!r}, and keeps to it; "
                              f"settings that may change are {allowed}")  # fmt: skip
    try:
        refuse_other_changes(config_class, flatten(donor.config), now)
    except ValueError as error:
        raise ConfigError(f"--adopt={path}: {error}") from error
    return Adopted(donor, own, before, after, adoption.note)


def add_to_lineage(directory: Path, note: Mapping[str, Any]) -> None:
    """Writes the note of an adoption into a record; it replaces one of the same generation."""
    found = read_lineage(directory)
    others = [one for one in found if one.get("generation") != note.get("generation")]
    write_json(directory / LINEAGE, {"adopted": [*others, to_json(dict(note))]})


def read_lineage(directory: Path) -> list[dict[str, Any]]:
    """Returns the notes on each adoption of a record, in their order; none if it has adopted nothing."""
    path = directory / LINEAGE
    return list(read_object(path)["adopted"]) if path.exists() else []
