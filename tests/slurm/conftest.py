"""A Slurm of one node for the tests that need one, and sweeps of the toy experiment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from slurm.cli import main

HERE = Path(__file__).parent
TOY = "tests/support/array_experiment.py"
REQUIRE = "METAPOLICY_REQUIRE_SLURM"


@pytest.fixture(scope="session")
def cluster_conf():
    """The slurm.conf of a cluster that is up while the tests run."""
    found = shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None and not os.environ.get(REQUIRE):
        pytest.skip("not run: this needs a Slurm (Debian, Ubuntu: apt-get install slurm-wlm munge)")
    directory = tempfile.mkdtemp(prefix="slurm-")
    environment = {**os.environ, "CPUS": "8", "MAX_ARRAY_SIZE": "1001"}
    started = subprocess.run(
        ["bash", HERE / "start_cluster.sh", directory], env=environment, capture_output=True, text=True, check=False
    )
    try:
        assert started.returncode == 0, started.stderr
        yield f"{directory}/slurm.conf"
    finally:
        subprocess.run(["bash", HERE / "stop_cluster.sh", directory], check=True)
        shutil.rmtree(directory)


@pytest.fixture
def no_slurm(monkeypatch, tmp_path):
    """A machine without Slurm's commands."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("git", "sh"):
        (programs / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.delenv("SLURM_CONF", raising=False)


class Desk:
    """Somebody at a command line, in a directory of their own."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]):
        self.directory = directory
        self.capsys = capsys

    def sweep(self, name: str = "toy", **sections: object) -> Path:
        path = self.directory / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"experiment": TOY, **sections}, sort_keys=False))
        return path

    def slurm(self, *words: object, status: int | None = 0) -> str:
        """What a command prints on both streams; None: whatever it returns."""
        self.capsys.readouterr()
        returned = main([str(word) for word in words])
        shown = self.capsys.readouterr()
        assert status in (returned, None), shown
        return shown.out + shown.err

    def states(self, name: str = "toy") -> dict[int, str]:
        return {run["run"]: run["state"] for run in self.status(name)}

    def status(self, name: str = "toy") -> list[dict]:
        return json.loads(self.slurm("status", name, "--json"))

    def wait(self, condition, seconds: float = 120, what: str = "") -> None:
        began, end = time.monotonic(), time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{what or condition} was not so within {seconds} s: {self.everything()}"
            # A condition that reads the state of a sweep starts `squeue`: in a long wait this took a third of a core.
            time.sleep(min(1.0, 0.2 + 0.05 * (time.monotonic() - began)))

    def everything(self) -> str:
        logs = "\n".join(path.read_text()[-1500:] for path in self.directory.glob("runs/_sweeps/*/logs/*"))
        return self.slurm("status", "toy") + logs

    def record(self, run: int, file: str = "run.json") -> dict:
        return json.loads((self.directory / "runs" / str(run) / file).read_text())


@pytest.fixture
def desk(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, capsys)


@pytest.fixture
def cluster(cluster_conf, monkeypatch):
    """The cluster, with an empty queue before and after."""
    monkeypatch.setenv("SLURM_CONF", cluster_conf)
    yield
    subprocess.run(["scancel", "--user", str(os.getuid())], check=True)
    deadline = time.monotonic() + 30
    while subprocess.run(["squeue", "--noheader"], capture_output=True, check=True).stdout:
        assert time.monotonic() < deadline, "jobs did not end"
        time.sleep(0.1)
