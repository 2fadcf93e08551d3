"""Checkpoints of other people: opening one runs no code, and ends with a state or with an error that names the file."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import pytest
import torch
from lab_runs import write_run
from payload import Payload

from research import checkpoint
from research.checkpoint import CheckpointError, Checkpoints

CONTENT = {"format": 1, "algorithm": "toy", "config": {}, "iteration": 0, "score": None, "state": {}}


def saved(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def legacy(content) -> bytes:
    """As torch wrote files before they were archives."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as target:
        for name, content in entries.items():
            target.writestr(name, content)
    return file.getvalue()


def entries(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        return {name: source.read(name) for name in source.namelist()}


def replaced(content: bytes, ending: str, new: bytes) -> bytes:
    """The archive with another entry in the place of the one whose name ends so."""
    return archive({name: new if name.endswith(ending) else old for name, old in entries(content).items()})


WHOLE = saved({**CONTENT, "state": {"x": torch.zeros(64)}})
FILES = {
    "payload": saved({**CONTENT, "state": {"x": Payload()}}),
    "payload in the settings": saved({**CONTENT, "config": {"x": Payload()}}),
    "payload alone": saved(Payload()),
    "legacy": legacy({**CONTENT, "state": Payload()}),
    "pickle": pickle.dumps(Payload()),
    "pickle in an archive": replaced(WHOLE, "data.pkl", pickle.dumps(Payload())),
    "torn pickle": replaced(WHOLE, "data.pkl", entries(WHOLE)["archive/data.pkl"][:20]),
    "empty pickle": replaced(WHOLE, "data.pkl", b""),
    "stack of nothing": replaced(WHOLE, "data.pkl", b"\x80\x02."),
    "unknown instruction": replaced(WHOLE, "data.pkl", b"\x80\x02\xff."),
    "compressed": archive(entries(WHOLE), zipfile.ZIP_DEFLATED),
    "script for torch.jit": archive(
        {"archive/constants.pkl": b"", "archive/code/a.py": b"import os", **entries(WHOLE)}
    ),
    "no entries": archive({}),
    "json": json.dumps({"py/reduce": []}).encode(),
    "code": b"import os\nos.mkdir('executed')\n",
    "nothing": b"",
}


@pytest.mark.parametrize("name", FILES)
def test_no_checkpoint_runs_code(place, capsys, name):
    place.write("foreign.pt", FILES[name])
    with pytest.raises(CheckpointError, match=r"foreign\.pt"):
        checkpoint.load("foreign.pt")
    assert place.run("evaluate", "with", "checkpoint=foreign.pt") == 2
    assert capsys.readouterr().err.startswith("error: foreign.pt")
    assert place.run("resume", "with", "checkpoint=foreign.pt") == 2
    assert "this checkpoint is in none" in capsys.readouterr().err
    write_run(place.directory / "runs" / "1", 1)
    (place.directory / "runs" / "1" / "checkpoints").mkdir(exist_ok=True)
    (place.directory / "runs" / "1" / "checkpoints" / "latest.pt").write_bytes(FILES[name])
    assert place.run("resume", "with", "run=1") == 2
    assert capsys.readouterr().err.startswith("error: runs/1/checkpoints/latest.pt")
    assert place.is_untouched()


def test_a_run_whose_checkpoints_were_replaced_starts_again(place, capsys):
    assert place.run("ensure", "with", "run=1", "num_iterations=2") == 0
    for name in ("latest.pt", "best.pt"):
        (place.directory / "runs/1/checkpoints" / name).write_bytes(FILES["payload"])
    capsys.readouterr()
    assert place.run("ensure", "with", "run=1", "num_iterations=3") == 0
    assert "latest.pt is no checkpoint of this project" in capsys.readouterr().out
    assert place.is_untouched()


def test_entries_that_lie_about_their_size_are_refused(tmp_path):
    """torch's own reader would return memory that nothing was written to."""
    path = Checkpoints(tmp_path, "toy", {}).latest
    for field in (20, 24):  # the compressed size and the size, in the directory of the archive
        content = bytearray(WHOLE)
        at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
        while not content[at + 46 :].startswith(b"archive/data/0"):
            at = content.index(b"PK\x01\x02", at + 1)
        content[at + field + 1] += 1
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"latest\.pt is damaged"):
            checkpoint.load(path)
