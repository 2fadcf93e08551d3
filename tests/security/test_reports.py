"""Reports of records that other people wrote: no file from elsewhere is in a page, and no text in it is markup."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from lab_runs import HOSTILE, write_run

from analysis.commands.report import main

SECRET = b"\x89PNG\r\n\x1a\n a picture of somebody else"
pytestmark = pytest.mark.thorough


def page(directory: Path) -> str:
    """The text of the report of `runs`."""
    assert main([str(directory / "runs"), "-o", str(directory / "page.html")]) == 0
    return (directory / "page.html").read_text()


def test_no_picture_from_outside_of_a_run_is_in_its_report(place):
    (place.directory / "secret.png").write_bytes(SECRET)
    (place.directory / "runs" / "private").mkdir(parents=True)
    (place.directory / "runs" / "private" / "secret.png").write_bytes(SECRET)
    record = place.directory / "runs" / "1"
    write_run(record, 1, pictures={"own.png": b"\x89PNG own"})
    (record / "link.png").symlink_to(place.directory / "secret.png")
    (record / "folder").symlink_to(place.directory)
    names = ["../../secret.png", str(place.directory / "secret.png"), "../private/secret.png", "link.png"]
    run = json.loads((record / "run.json").read_text())
    run["artifacts"] += [*names, "folder/secret.png"]
    (record / "run.json").write_text(json.dumps(run))
    shown = page(place.directory)
    assert base64.b64encode(b"\x89PNG own").decode() in shown
    assert base64.b64encode(SECRET).decode() not in shown


def test_no_text_of_a_record_is_markup_in_its_report(place):
    image = "<img src=x onerror=alert(1)>"
    write_run(place.directory / "runs" / "1", 1, tag=HOSTILE, note=image, output=f"{HOSTILE}{image}", **{image: image})
    write_run(place.directory / "runs" / image.replace("/", ""), 2, status="FAILED", task=image)
    shown = page(place.directory)
    assert "<img src=x" not in shown and HOSTILE not in shown
