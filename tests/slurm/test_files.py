"""What a submission writes and jobs read: manifests, profiles, arrays, the copy of the code."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from slurm.arrays import Terms, array_command, arrays_of, order, ranges
from slurm.errors import SlurmError
from slurm.folder import Array, Folder, Submission, find_folder, new_folder, next_folder, publish, sweeps_dir
from slurm.manifest import Entry, read_entry, read_manifest, write_manifest
from slurm.profile import PROFILES, Profile, load_profile
from slurm.snapshot import take_snapshot
from slurm.task import ROOT, become_run, python_path, surroundings

ENTRIES = [Entry(run, f"hash{run}", run, "experiments/x.py", "ensure", ["fast"], {"lr": 0.1}) for run in (3, 4, 7)]

SUBMISSION = Submission("0123456789ab", "/home/me/checkout", ["/home/me/lib"])


@pytest.fixture
def manifest(tmp_path):
    write_manifest(tmp_path / "manifest.jsonl", ENTRIES)
    return tmp_path / "manifest.jsonl"


def test_a_manifest_is_read_as_it_was_written(manifest):
    assert read_manifest(manifest) == ENTRIES
    assert [read_entry(manifest, line) for line in range(3)] == ENTRIES
    for line in (-1, 3):
        with pytest.raises(SlurmError, match=f"line={line}: need a line from 0 to 2"):
            read_entry(manifest, line)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-5], "line 2 is truncated"),
        (lambda text: text[text.index("\n") + 1 :], "line 0 of 2 is marked as line 1 of 3"),
        (lambda text: text[: text.rindex("\n", 0, -1) + 1], "line 0 of 2 is marked as line 0 of 3"),
        (lambda text: text.replace('"seed"', '"sed"'), "line 0 is not a run"),
        (lambda text: text.replace("{", "", 1), "line 0 is not a run"),
        (lambda text: "", "empty"),
    ],
)
def test_a_manifest_that_is_not_whole_is_refused(manifest, damage, message):
    manifest.write_text(damage(manifest.read_text()))
    with pytest.raises(SlurmError, match=message) as refused:
        read_manifest(manifest)
    assert str(manifest) in str(refused.value) and "restore it, or submit the sweep again" in str(refused.value)


def test_a_task_becomes_its_run_and_hands_it_a_file(manifest, monkeypatch):
    called = []
    monkeypatch.delenv("PYTHONPATH", raising=False)
    become_run(manifest, 1, lambda *arguments: called.append(arguments))
    ((program, command, environment),) = called
    overrides = manifest.parent / "overrides" / "4.json"
    assert command == [
        program,
        str(ROOT / "experiments" / "x.py"),
        "ensure",
        f"--overrides={overrides}",
        "with",
        "fast",
    ]
    runs_dir = str(manifest.parent.parent.parent)
    assert json.loads(overrides.read_text()) == {"lr": 0.1, "runs_dir": runs_dir, "run": 4}
    assert environment["PYTHONPATH"] == str(ROOT)


def test_a_run_imports_its_code_first_and_what_pythonpath_had_then_and_has_now(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/site/modules", "/home/me/checkout", str(tmp_path), ""]))
    path = surroundings(tmp_path, SUBMISSION)["PYTHONPATH"].split(os.pathsep)
    assert path == [str(tmp_path), "/site/modules", "/home/me/lib"], "the checkout can change and is left out"


def test_relative_parts_of_pythonpath_stay_the_directories_that_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", "lib", "/opt/x", "lib"]))
    assert python_path(tmp_path) == [str(tmp_path / "lib"), "/opt/x"]


def test_the_profiles_that_come_along_can_be_read():
    names = {path.stem for path in PROFILES.glob("*.yaml")}
    assert {"local", "cpu", "gpu"} <= names
    assert all(load_profile(name).sbatch_options() for name in names)
    assert "--gres=gpu:1" in load_profile("gpu").sbatch_options()
    assert "--time=4:00:00" in load_profile("cpu").sbatch_options()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin: x", "partitoin='x': no such key; did you mean partition?"),
        ("cpus: two", "cpus='two': need an integer"),
        ("throttle: 0", "throttle=0: need at least 1"),
    ],
)
def test_a_profile_that_cannot_be_is_refused(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(SlurmError, match=message.replace("?", r"\?")) as refused:
        load_profile(str(tmp_path / "mine.yaml"))
    assert str(tmp_path / "mine.yaml") in str(refused.value)


def test_an_unknown_profile_is_refused_with_those_there_are():
    with pytest.raises(SlurmError, match=r"--profile cluster: .* has cpu, gpu, local"):
        load_profile("cluster")


def test_the_environment_of_a_profile_is_shell_that_sets_the_interpreter(tmp_path):
    profile = Profile(setup="export A='1 2'", python="/opt/my python", container="env B=3")
    script = profile.environment() + 'printf "%s\\n" "$A" "${PYTHON[@]}"'
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == ["1 2", "env", "B=3", "/opt/my python"]
    (tmp_path / "my venv" / "bin").mkdir(parents=True)
    (tmp_path / "my venv" / "bin" / "activate").write_text("V=here\n")
    script = Profile(venv=str(tmp_path / "my venv")).environment() + 'echo "$V" "${PYTHON[@]}"'
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout == "here python\n"
    assert "module load cuda/12 'a b'" in Profile(modules=("cuda/12", "a b")).environment()


def test_indices_are_written_as_slurm_has_them():
    assert ranges([0, 1, 2, 3, 7, 9, 10]) == "0-3,7,9-10"
    assert ranges([5]) == "5"


@pytest.mark.parametrize("size", [1, 3, 10, 1001])
def test_arrays_hold_each_line_once_below_the_size(size):
    lines = [line for line in range(25) if line % 7]
    arrays = arrays_of(0, lines, size)
    assert sorted(line for array in arrays for line in array.lines) == lines
    assert all(0 <= index < size for array in arrays for index in array.indices)
    assert len({array.offset for array in arrays}) == len(arrays)


def test_what_follows_waits_for_the_same_index_and_only_for_what_is_submitted():
    groups = order([[0, 1, 4, 5], [0, 1, 2, 5]], 4)
    plain = [[(array.stage, array.offset, array.indices, waits) for array, waits, _ in group] for group in groups]
    assert plain == [
        [(0, 0, [0, 1], False), (1, 0, [0, 1], True), (1, 0, [2], False)],
        [(0, 4, [0, 1], False), (1, 4, [1], True)],
    ]


def test_the_command_of_an_array(tmp_path):
    folder = Folder(tmp_path / "runs" / "_sweeps" / "fast-1")
    profile = Profile(partition="cpu", ntasks=3, cpus=2, throttle=9, options=("--nice",))
    terms = Terms(profile.throttled(4), tmp_path / "code")
    command = array_command(folder, Array(1, 2000, [0, 1, 5]), terms, after="77")
    assert command == [
        "sbatch",
        "--parsable",
        "--array=0-1,5%4",
        f"--chdir={tmp_path}/code",
        f"--output={folder.path}/logs/%A_%a.log",
        "--partition=cpu",
        "--ntasks=3",
        "--cpus-per-task=2",
        "--signal=USR1@120",
        "--nice",
        "--job-name=fast-1.1.2000.TOKEN",
        "--dependency=aftercorr:77",
        "--kill-on-invalid-dep=yes",
        f"{tmp_path}/code/slurm/array.sbatch",
        f"{folder.path}/manifest-1.jsonl",
        "2000",
        f"{tmp_path}/code",
    ]
    unchanged = terms._replace(profile=profile.throttled(None))
    assert "--array=0-1,5%9" in array_command(folder, Array(1, 2000, [0, 1, 5]), unchanged)


def test_sweeps_of_a_name_are_numbered_and_found(tmp_path):
    runs = tmp_path / "runs"
    for number in range(1, 12):
        assert next_folder(sweeps_dir(runs), "a-b").name == f"a-b-{number}"
        with new_folder(sweeps_dir(runs), SUBMISSION) as (hidden, _):
            write_manifest(hidden.manifest(0), ENTRIES)
            publish(hidden, "a-b")
    assert find_folder(runs, "a-b").name == "a-b-11"
    assert find_folder(runs, "a-b-3").name == "a-b-3"
    assert find_folder(runs, str(runs / "_sweeps" / "a-b-4")).name == "a-b-4"
    with pytest.raises(SlurmError, match=r"a-c: no such sweep in .*; there is a-b-1, "):
        find_folder(runs, "a-c")


def git(root, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    root.mkdir()
    git(root, "init", "-q")
    (root / "pack").mkdir()
    for name in ("kept.py", "changed.py", "removed.py", "pack/inner.py"):
        (root / name).write_text("1")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / ".gitignore").write_text("ignored\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    (root / "changed.py").write_text("2")
    (root / "removed.py").unlink()
    (root / "new.py").write_text("3")
    (root / "ignored").write_text("4")
    return root


def test_the_copy_of_the_code_is_what_stands_there(checkout, tmp_path):
    take_snapshot(checkout, tmp_path / "copy")
    copied = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*") if path.is_file()}
    assert copied == {".gitignore", ".snapshot.json", "kept.py", "changed.py", "new.py", "pack/inner.py", "run.sh"}
    assert (tmp_path / "copy" / "changed.py").read_text() == "2"
    assert (tmp_path / "copy" / "run.sh").stat().st_mode & 0o111
    state = json.loads((tmp_path / "copy" / ".snapshot.json").read_text())
    assert state["commit"] == git(checkout, "rev-parse", "HEAD").strip()
    assert state["dirty"] is True and "-1\n" in state["diff"] and "+2\n" in state["diff"]
    (checkout / "changed.py").write_text("later")
    assert (tmp_path / "copy" / "changed.py").read_text() == "2"


def test_data_that_git_does_not_know_is_not_copied(checkout, tmp_path):
    with (checkout / "data.bin").open("wb") as file:
        file.truncate(60 * 2**20)
    with pytest.raises(SlurmError, match=r"60 MiB or more of untracked files .* most of them in data.bin"):
        take_snapshot(checkout, tmp_path / "copy")
    (checkout / ".gitignore").write_text("ignored\ndata.bin\n")
    take_snapshot(checkout, tmp_path / "copy")


def test_code_outside_of_git_cannot_be_copied(tmp_path):
    with pytest.raises(SlurmError, match="--no-snapshot runs the code in place"):
        take_snapshot(tmp_path, tmp_path / "copy")


@pytest.fixture
def linked(checkout, tmp_path):
    """A checkout with links of all kinds, a submodule, and a repository that it does not know."""
    library = tmp_path / "library"
    (library / "__pycache__").mkdir(parents=True)
    (library / "__init__.py").write_text("WHO = 'linked'")
    (library / "__pycache__" / "x.pyc").write_text("")
    (library / "again").symlink_to(library)
    for name, target in {"inside": "pack", "inner.py": "pack/inner.py", "outside": library, "dead": "nowhere",
                         "file.py": library / "__init__.py", "runs": tmp_path / "runs"}.items():  # fmt: skip
        (checkout / name).symlink_to(target)
    (tmp_path / "runs" / "1").mkdir(parents=True)
    (tmp_path / "runs" / "1" / "run.json").write_text("{}")
    for name in ("sub", "nested"):
        repository = tmp_path / name if name == "sub" else checkout / name
        repository.mkdir()
        git(repository, "init", "-q")
        (repository / f"{name}.py").write_text(name)
        git(repository, "add", ".")
        git(repository, "commit", "-qm", name)
    git(checkout, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "sub"), "third")
    (checkout / "third" / "sub.py").write_text("changed")
    return checkout


def test_the_copy_has_what_links_and_submodules_lead_to(linked, tmp_path):
    copy = tmp_path / "copy"
    take_snapshot(linked, copy, tmp_path / "runs")
    assert (copy / "outside" / "__init__.py").read_text() == "WHO = 'linked'"
    assert sorted(path.name for path in (copy / "outside").iterdir()) == ["__init__.py"]
    assert (copy / "third" / "sub.py").read_text() == "changed" and (copy / "nested" / "nested.py").exists()
    assert (copy / "inside").readlink().name == "pack" and (copy / "inside" / "inner.py").read_text() == "1"
    assert (copy / "inner.py").resolve() == (copy / "pack" / "inner.py").resolve()
    assert (copy / "dead").is_symlink() and not (copy / "runs").exists()
    for changed in (tmp_path / "library" / "__init__.py", linked / "pack" / "inner.py"):
        changed.write_text("later")
    texts = [(copy / name).read_text() for name in ("outside/__init__.py", "file.py", "inside/inner.py")]
    assert texts == ["WHO = 'linked'", "WHO = 'linked'", "1"], "what is edited later changes nothing"


def test_data_behind_a_link_is_refused_with_its_name(checkout, tmp_path):
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "large.bin").open("wb") as file:
        file.truncate(60 * 2**20)
    (checkout / "data").symlink_to(tmp_path / "data")
    with pytest.raises(SlurmError, match=r"files behind links, most of them in data; .* --no-snapshot"):
        take_snapshot(checkout, tmp_path / "copy")
