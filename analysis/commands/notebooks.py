"""`python -m analysis notebooks`: executes the notebooks, each in a kernel of its own, and saves HTML and .ipynb.

A notebook that finds no runs where they should be is executed on small ones, real but far too short to prove anything,
which `experiments/small_runs.py` makes; its page says so.
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
_SMALL = """> **Small runs.** {directory} has none for this notebook, so `experiments/small_runs.py` made some:
> real ones, and far too short to prove anything. What follows shows that everything works and what it looks like."""
_PAGE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}"""
"""Of the HTML: without the scripts that it would fetch from the network."""


def names(chosen: Sequence[str] = ()) -> list[str]:
    """The notebooks whose names begin like one of those chosen; all, if none is.

    Raises:
        ValueError: One begins like none.
    """
    known = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.py"))
    for start in chosen:
        if not any(name.startswith(start) for name in known):
            raise ValueError(f"{start}: no such notebook; there are {', '.join(known)}")
    return [name for name in known if not chosen or name.startswith(tuple(chosen))]


def execute(name: str, runs: Path, figures: Path, remark: str = "") -> Any:
    """The notebook with its outputs, which it had from these runs.

    Args:
        name: Of the notebook.
        runs: The directory of runs that it reads.
        figures: Where its figures go.
        remark: Markdown to put before it.

    Raises:
        RunsMissingError: It found no runs.
        nbclient.exceptions.CellExecutionError: One of its cells failed.
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
    client.extra_arguments = [*client.extra_arguments, "--log-level=ERROR"]  # not a word about how kernels talk
    try:
        client.execute(env=os.environ | paths)
    except CellExecutionError as error:
        if error.ename == RunsMissingError.__name__:
            raise RunsMissingError(error.evalue) from error
        raise
    return notebook


def write(notebook: Any, name: str, output: Path) -> Path:
    """Writes `<name>.html`, which needs no network, and `<name>.ipynb`. Returns the page's path."""
    import nbformat
    from nbconvert import HTMLExporter

    output.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, output / f"{name}.ipynb")
    body, _ = HTMLExporter(raw_template=_PAGE).from_notebook_node(notebook, {"metadata": {"name": name}})
    page = output / f"{name}.html"
    page.write_text(body)
    return page


def make_small_runs(name: str, directory: Path) -> None:
    """Has the small runs of a notebook made, unless they are there."""
    script = ROOT / "experiments" / "small_runs.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    made = subprocess.run([sys.executable, str(script), str(directory), name], env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    if made.returncode:
        raise ValueError(f"{script} {directory} {name} ended with status {made.returncode}:\n{made.stderr[-3000:]}")


def main(argv: Sequence[str]) -> int:
    """Executes notebooks and says where their pages are. Returns the exit status."""
    parser = command_line.parser("notebooks", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which, or how their names begin: 01 04 (all)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the directory of runs (%(default)s)")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/notebooks"), help="(%(default)s)")
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
    """Executes and writes a notebook. Returns which runs it was executed on."""
    try:
        write(execute(name, runs, output / "figures"), name, output)
    except RunsMissingError:
        small = output / "runs"
        make_small_runs(name, small)
        write(execute(name, small, output / "figures", _SMALL.format(directory=runs)), name, output)
        return f"small runs: {runs} has none for it"
    return f"runs in {runs}"
