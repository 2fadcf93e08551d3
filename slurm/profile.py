"""Profiles: sbatch options of a site and the Python environment of its machines. See slurm/profiles/.

Every key is optional; the default is that of the site.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from research.conversion import ConfigError, from_mapping, to_mapping
from research.files import write_json, write_text
from research.validation import at_least
from slurm.errors import SlurmError
from slurm.yaml_files import read_yaml

PROFILES = Path(__file__).with_name("profiles")


@dataclass(frozen=True)
class Profile:
    """Settings of a site, or of one kind of job on it. None leaves a setting to the site.

    Attributes:
        partition: Partition.
        account: Account that is charged.
        qos: Quality of service.
        constraint: Features that a node must have.
        gres: Generic resources, e.g. `gpu:1`.
        ntasks: Processes (ranks) per run, which divide the tasks of its meta-batches among them.
        cpus: Cores per process.
        mem: Memory per node of a run, e.g. `8G`.
        time: Time limit of each start of a run, in sbatch's notation, e.g. `4:00:00` or `1-12`. A longer run is
            requeued at the limit and continues from its checkpoint.
        notice: Seconds before the time limit at which a run receives the signal to save and stop.
        throttle: Most tasks of an array that run at once; None for no limit.
        options: Further options of sbatch, verbatim.
        modules: Modules to load with `module load`.
        setup: Further shell lines, run before the run.
        venv: Virtual environment to activate.
        container: Command that starts a program in a container, e.g. `apptainer exec --nv image.sif`.
        python: The interpreter; None for that of `venv` or `container`, else the interpreter that submits.
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
        """Returns the profile with another throttle; None changes nothing."""
        return self if limit is None else replace(self, throttle=limit)

    def sbatch_options(self) -> list[str]:
        """Returns the options of sbatch, besides those in `array.sbatch`."""
        plain = {name: getattr(self, name) for name in ("partition", "account", "qos", "constraint", "gres")}
        named = {**plain, "ntasks": self.ntasks, "cpus-per-task": self.cpus, "mem": self.mem, "time": self.time}
        options = [f"--{name}={value}" for name, value in named.items() if value is not None]
        return [*options, f"--signal=USR1@{self.notice}", *self.options]

    @property
    def has_environment(self) -> bool:
        """Whether runs have another environment than the process that submits them."""
        return any((self.modules, self.setup, self.venv, self.container, self.python))

    def environment(self) -> str:
        """Returns the shell lines that `array.sbatch` executes before a run. They set the array `PYTHON`, a command."""
        lines = [f"module load {shlex.join(self.modules)}"] if self.modules else []
        lines += [self.setup.rstrip()] if self.setup else []
        lines += [f". {shlex.quote(f'{self.venv}/bin/activate')}"] if self.venv else []
        python = self.python or ("python" if self.venv or self.container else sys.executable)
        return "\n".join([*lines, f"PYTHON=({self.container or ''} {shlex.quote(python)})"]) + "\n"


def write_profile(folder: Path, profile: Profile) -> None:
    """Writes the profile that later submissions of a sweep use."""
    write_json(folder / "profile.json", to_mapping(profile))
    write_text(folder / "environment.sh", profile.environment())


def load_profile(name: str) -> Profile:
    """Returns a profile by its name in slurm/profiles or by the path of a file. Raises SlurmError if there is none."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROFILES / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(near.stem for near in PROFILES.glob("*.yaml")))
        raise SlurmError(
            f"--profile {name}: {path} does not exist; {PROFILES} has {there}. Copy one and adapt it to your site"
        )
    return read_profile(path)


def read_profile(path: Path) -> Profile:
    """Returns the profile of a file. Raises SlurmError, which names the file and the key."""
    try:
        return from_mapping(Profile, read_yaml(path))
    except ConfigError as error:
        raise SlurmError(f"{path}: {error}") from error
