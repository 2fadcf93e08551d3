"""`python -m analysis notebooks`: executes the notebooks, each in its own kernel, and writes HTML and .ipynb files.

If a notebook finds no runs, `experiments/small_runs.py` makes small ones for it: real runs that are too short to
support any conclusion. The page says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.commands import command_line
from analysis.notebooks import FIGURES, ROOT, RUNS, RunsMissingError

NOTEBOOKS = ROOT / "analysis" / "notebooks"
_SMALL = """> **Small runs.** {directory} has no runs for this notebook, so `experiments/small_runs.py` made small ones:
> real runs that are too short to support any conclusion. They show that the notebook works and what it looks like."""
_PAGE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}"""
"""The template of the HTML page, without scripts that a browser would load from the network."""


def names(chosen: Sequence[str] = ()) -> list[str]:
    """Returns the notebooks whose names begin with one of the chosen texts, or all if none is chosen.

    Raises:
        ValueError: No notebook begins with one of the texts.
    """
    known = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.py"))
    for start in chosen:
        if not any(name.startswith(start) for name in known):
            raise ValueError(f"{start}: no such notebook; there are {', '.join(known)}")
    return [name for name in known if not chosen or name.startswith(tuple(chosen))]


def execute(name: str, runs: Path, figures: Path, remark: str = "") -> Any:
    """Executes a notebook. Returns it with its outputs.

    Args:
        name: The name of the notebook.
        runs: The directory of the runs that it reads.
        figures: The directory that it writes figures to.
        remark: Markdown to insert after the title.

    Raises:
        RunsMissingError: The notebook found no runs.
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    import jupytext
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = jupytext.read(NOTEBOOKS / f"{name}.py")
    if remark:
        notebook.cells.insert(1, nbformat.v4.new_markdown_cell(remark))
    paths = {RUNS: str(runs), FIGURES: str(figures), "PYTHONPATH": str(ROOT)}
    place = {"metadata": {"path": str(ROOT)}}
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place)
    client.extra_arguments = [*client.extra_arguments, "--log-level=ERROR"]  # suppresses warnings about the connection
    try:
        client.execute(env=os.environ | paths)
    except CellExecutionError as error:
        if error.ename == RunsMissingError.__name__:
            raise RunsMissingError(error.evalue) from error
        raise
    return notebook


def write(notebook: Any, name: str, output: Path) -> Path:
    """Writes `<name>.html`, which needs no network, and `<name>.ipynb`. Returns the path of the page."""
    import nbformat
    from nbconvert import HTMLExporter

    output.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, output / f"{name}.ipynb")
    body, _ = HTMLExporter(raw_template=_PAGE).from_notebook_node(notebook, {"metadata": {"name": name}})
    page = output / f"{name}.html"
    page.write_text(body, encoding="utf-8")
    return page


def make_small_runs(name: str, directory: Path) -> None:
    """Makes the small runs of a notebook, unless they exist."""
    script = ROOT / "experiments" / "small_runs.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    made = subprocess.run([sys.executable, str(script), str(directory), name], env=environment, capture_output=True,
                          encoding="utf-8", errors="replace", check=False)  # fmt: skip
    if made.returncode:
        raise ValueError(f"{script} {directory} {name} ended with status {made.returncode}:\n{made.stderr[-3000:]}")


def main(argv: Sequence[str]) -> int:
    """Executes notebooks and prints the paths of their pages. Returns the exit status."""
    parser = command_line.parser("notebooks", __doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="the beginnings of their names, e.g. 01 04 (default: all)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the directory of the runs (%(default)s)")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("build/notebooks"), help="the directory to write to (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    return command_line.run(lambda: _all(arguments.names, arguments.runs.absolute(), arguments.output.absolute()))


def _all(chosen: Sequence[str], runs: Path, output: Path) -> str:
    from nbclient.exceptions import CellExecutionError

    lines = []
    for name in names(chosen):
        start = time.monotonic()
        try:
            source = _one(name, runs, output)
        except CellExecutionError as error:
            raise ValueError(f"{name}: a cell failed\n{error}") from error
        lines.append(f"{output / name}.html  ({source}, {time.monotonic() - start:.0f} s)")
        print(lines[-1], flush=True)
    return f"{len(lines)} notebooks; figures for papers: {output / 'figures'}"


def _one(name: str, runs: Path, output: Path) -> str:
    """Executes and writes a notebook. Returns a description of the runs that it read."""
    try:
        write(execute(name, runs, output / "figures"), name, output)
    except RunsMissingError:
        small = output / "runs"
        make_small_runs(name, small)
        write(execute(name, small, output / "figures", _SMALL.format(directory=runs)), name, output)
        return f"small runs: {runs} has none for it"
    return f"runs in {runs}"
