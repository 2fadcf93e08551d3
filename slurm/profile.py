"""Profiles: what a site wants to be told, and how its machines come by their Python. See slurm/profiles/.

Every key may be left out; then the site's own default holds.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from research.files import write_json, write_text
from research.tracking.config import ConfigError, from_mapping, to_mapping
from research.validation import at_least
from slurm.errors import SlurmError
from slurm.yaml_files import read_yaml

PROFILES = Path(__file__).with_name("profiles")


@dataclass(frozen=True)
class Profile:
    """A site, or a kind of job on it.

    Attributes:
        partition: Where to queue.
        account: What pays.
        qos: Quality of service.
        constraint: Features that a node must have.
        gres: Generic resources, e.g. `gpu:1`.
        ntasks: Processes that share each run, as ranks that each have a part of its tasks.
        cpus: Of each process.
        mem: Of each run, on each of its nodes, e.g. `8G`.
        time: Limit of each start of a run, as sbatch has it, e.g. `4:00:00` or `1-12`. What needs longer is requeued at
            the limit and goes on.
        notice: Seconds before the limit at which a run is told to save and stop.
        throttle: Tasks of an array that run at once; None for no such limit.
        options: Further options of sbatch, as they are written there.
        modules: To load with `module load`.
        setup: Further lines of shell, before the run.
        venv: A virtual environment to activate.
        container: What starts a program in a container, e.g. `apptainer exec --nv image.sif`.
        python: The interpreter; None for the one that submits, or that of `venv` or `container`.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    ntasks: int | None = None
    cpus: int | None = None
    mem: str | int | None = None
    time: str | int | None = None
    notice: int = 120
    throttle: int | None = None
    options: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    setup: str | None = None
    venv: str | None = None
    container: str | None = None
    python: str | None = None

    def __post_init__(self) -> None:
        at_least(
            self, 1, "notice", *(name for name in ("ntasks", "cpus", "throttle") if getattr(self, name) is not None)
        )

    def throttled(self, limit: int | None) -> Profile:
        """The same with another throttle, unless that is None."""
        return self if limit is None else replace(self, throttle=limit)

    def sbatch_options(self) -> list[str]:
        """The options of sbatch, besides those in `array.sbatch`."""
        plain = {name: getattr(self, name) for name in ("partition", "account", "qos", "constraint", "gres")}
        named = {**plain, "ntasks": self.ntasks, "cpus-per-task": self.cpus, "mem": self.mem, "time": self.time}
        options = [f"--{name}={value}" for name, value in named.items() if value is not None]
        return [*options, f"--signal=USR1@{self.notice}", *self.options]

    def environment(self) -> str:
        """The shell lines that `array.sbatch` reads before it starts a run: they set `PYTHON`, a list of words."""
        lines = [f"module load {shlex.join(self.modules)}"] if self.modules else []
        lines += [self.setup.rstrip()] if self.setup else []
        lines += [f". {shlex.quote(f'{self.venv}/bin/activate')}"] if self.venv else []
        python = self.python or ("python" if self.venv or self.container else sys.executable)
        return "\n".join([*lines, f"PYTHON=({self.container or ''} {shlex.quote(python)})"]) + "\n"


def write_profile(folder: Path, profile: Profile) -> None:
    """Has the jobs of a sweep's folder that are submitted from now on use a profile."""
    write_json(folder / "profile.json", to_mapping(profile))
    write_text(folder / "environment.sh", profile.environment())


def load_profile(name: str) -> Profile:
    """The profile of a file, or of that name in slurm/profiles. Raises SlurmError, which names what is allowed."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(near.stem for near in PROFILES.glob("*.yaml")))
        raise SlurmError(
            f"--profile {name}: no {path}; in {PROFILES} there is {there}. Copy one of them and change it to your site"
        )
    return read_profile(path)


def read_profile(path: Path) -> Profile:
    """The profile of a file. Raises SlurmError, which names the file and the key."""
    try:
        return from_mapping(Profile, read_yaml(path))
    except ConfigError as error:
        raise SlurmError(f"{path}: {error}") from error
