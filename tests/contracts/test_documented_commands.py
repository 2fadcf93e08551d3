"""Every command, setting, test and file that README.md and docs/ name is there.

Commands are read as a shell and the program would read them, and are not run. `adding-a-task.md` and
`adding-an-algorithm.md` name files that they make; test_guides.py carries them out.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import analysis.__main__
import slurm.cli
from benchmarks import MODULES, harness
from research.conversion import ConfigError, convert_fields
from research.tasks import REGRESSION_TASKS, TASKS
from research.tracking.mongo import sync
from research.tracking.settings_file import read_updates

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
pytestmark = pytest.mark.thorough

CARRIED_OUT = ("adding-a-task.md", "adding-an-algorithm.md")

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
START = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:python|make|pytest|pip install)\b")
SETTING = re.compile(r"[a-z_]+(\.[\w.]+)?=[^\s…]+")
FILE = re.compile(r"[\w.\-/]+\.(?:py|md|yaml|sbatch|cfg|toml|sh|csv|jsonl|png|html|css|js|c)")
FOLDERS = tuple(path.name for path in ROOT.iterdir() if path.is_dir())

OF_OTHERS = {
    "metalearners/maml_trpo.py",  # tristandeleu/pytorch-maml-rl
    "multistep.py",  # rlax
    "site-packages/holocron/optim/wrapper.py",
    "curves.png", "page.html", "environment.sh", "file.yaml",  # names that a reader chooses
}  # fmt: skip
OF_RECORDS = {"beliefs.png", "metrics.jsonl", "metrics.cut.jsonl"}
OF_LIBRARIES = {
    "autoreset_mode=AutoresetMode.NEXT_STEP", "vectorization=async",  # Gymnasium
    "track_higher_grads=False", "weights_only=True", "track_running_stats=False", "filterwarnings=error",
    'repeats="all"', 'repeats="last"', "allow_different_tasks=True", 'ragged="available"',  # functions of analysis
    "exploration.schedule=bandit",  # removed, as the page says
    'not_finite="drop"',  # likewise
    "w=0",  # an option of MongoDB
}  # fmt: skip
CONDITIONS = ("tag", "status", "experiment")
"""Columns that conditions of `--where` name, besides settings."""


class Command(NamedTuple):
    page: str
    words: tuple[str, ...]


def prose(page):
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def spans(page):
    return SPAN.findall(prose(page))


def lines(page):
    """The command lines of a page: in blocks, in indented lines, and between backquotes."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    shown = [block for kind, block in FENCE.findall(text) if kind not in ("python", "diff")]
    if page.name in ("troubleshooting.md", "design.md"):
        shown = []  # what is refused, which test_guides.py tries; and the list of folders
    indented = re.findall(r"^ {4,}(\S.*)$", FENCE.sub("", text), re.MULTILINE)
    return [*(line.strip() for block in shown for line in block.splitlines()), *indented, *spans(page)]


def commands():
    found: dict[Command, None] = {}
    for page in PAGES:
        if page.name in CARRIED_OUT:
            continue
        for line in lines(page):
            for part in re.split(r"\s&&\s|;\s*(?:do\s+)?", re.sub(r"\s{2,}#.*|\s# .*", "", line)):
                if START.match(part.strip()):
                    words = shlex.split(part.strip().removeprefix("$ "))
                    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
                        words = words[1:]
                    found[Command(page.name, tuple(words))] = None
    return list(found)


def name_of(value):
    return f"{value.page}: {' '.join(value.words)}" if isinstance(value, Command) else None


def experiment_of(script):
    return importlib.import_module(f"experiments.{Path(script).stem}").experiment


def check_script(script, arguments):
    """Raises if the command, a named config or a setting of an experiment is not there."""
    assert (ROOT / script).is_file(), f"{script} is not there"
    if not script.startswith("experiments/") or not hasattr(
        importlib.import_module(f"experiments.{Path(script).stem}"), "experiment"
    ):
        return
    experiment = experiment_of(script)
    before, _, settings = " ".join(arguments).partition("with ")
    values = arguments[arguments.index("with") + 1 :] if settings else []
    given = [word for word in before.split() if not word.startswith("-")]
    assert all(word in experiment.commands for word in given[-1:]), f"{script} has no command {given}"
    updates, named = read_updates([value for value in values if value != "…"])
    experiment.settings.typed(experiment.settings.given(nested(updates), named))


def nested(flat):
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return tree


def check_options(main, arguments, command):
    """Raises if a command of a program, or an option of it, is not there."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0, f"no command {command}"
    for word in arguments:
        if word.startswith("-"):
            assert re.search(rf"(?<![\w-]){re.escape(word.split('=')[0])}(?![\w-])", shown.getvalue()), f"no {word}"
        elif word.endswith(".yaml") and "/" in word:
            assert (ROOT / word).is_file(), f"{word} is not there"


def check_module(module, arguments):
    command = next((word for word in arguments if not word.startswith("-")), "")
    if module == "pytest":
        check_pytest(arguments)
    elif module == "analysis" and command not in ("", "COMMAND"):
        module_of = analysis.__main__.COMMANDS
        assert command in module_of, f"analysis has no command {command}"
        check_options(lambda _: analysis.__main__.main([command, "--help"]), arguments[1:], command)
    elif module == "slurm" and command:
        check_options(slurm.cli.main, arguments[1:], command)
    elif module == "research.tracking":
        check_options(sync.main, arguments[1:], command)
    else:
        assert module in ("analysis", "slurm", "benchmarks", "pip", "ruff"), f"no module {module}"


def check_pytest(arguments):
    sources = ""
    for word in arguments:
        if "/" in word:
            path = ROOT / word.split("::")[0]
            assert path.exists(), f"{word} is not there"
            files = path.rglob("test_*.py") if path.is_dir() else [path]
            sources += "\n".join(file.read_text(encoding="utf-8") for file in files)
    for option, value in itertools.pairwise(arguments):
        if option == "-m":
            assert value in (ROOT / "setup.cfg").read_text(encoding="utf-8")
        if option == "-k":
            for name in set(re.findall(r"\w+", value)) - {"or", "and", "not"}:
                assert re.search(rf"def test_\w*{name}|class \w*{name}|\b{name}\b", sources), f"-k {name}: no test"


def check_pip(words):
    """Raises if a package is installed in another way than the script that makes .venv does it."""
    script = (ROOT / "requirements" / "install.sh").read_text(encoding="utf-8").splitlines()
    for package in (word for word in words if "==" in word and not word.startswith("-")):
        (line,) = [line for line in script if package in line]
        assert {word for word in words if word[:2] == "--"} == {word for word in line.split() if word[:2] == "--"}


def check_make(arguments):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    variables = dict(word.split("=", 1) for word in arguments if "=" in word)
    targets = [word for word in arguments if "=" not in word and word != "..."]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make has no target {target}"
    for name in variables:
        assert name in makefile or name == "PYTHON", f"the Makefile reads no {name}"
    if targets == ["bench"] and "ONLY" in variables:
        harness.load(MODULES)
        harness.matching(variables["ONLY"])  # raises ValueError if there is none
    for start in variables.get("ONLY", "").split() if targets == ["notebooks"] else ():
        assert list(ROOT.glob(f"analysis/notebooks/{start}*.py"))
    if targets == ["run"] and "ARGS" in variables:
        text = variables["ARGS"].replace("$SHORT", "").replace("seed=$seed", "seed=0").replace("-c first_run", "")
        check_script("experiments/maml_trpo.py", text.split())


@pytest.mark.parametrize("command", commands(), ids=name_of)
def test_a_command_is_one(command):
    program, *arguments = command.words
    if program == "pip" or arguments[:3] == ["-m", "pip", "install"]:
        check_pip(command.words)
    elif program == "make":
        check_make(arguments)
    elif program == "pytest":
        check_pytest(arguments)
    elif arguments and arguments[0] == "-m":
        check_module(arguments[1], arguments[2:])
    elif arguments:
        check_script(arguments[0], arguments[1:])


def is_setting(text):
    """Whether a script accepts a setting, or a family of tasks has it."""
    updates, _ = read_updates([text])
    for script in sorted(ROOT.glob("experiments/*.py")):
        experiment = getattr(importlib.import_module(f"experiments.{script.stem}"), "experiment", None)
        if experiment is None:
            continue
        choice = experiment.settings._choice
        for name in choice.classes:
            with contextlib.suppress(ConfigError):
                experiment.settings.checked(nested(updates), {choice.key: name} if choice.key else {})
                if next(iter(updates)).split(".")[0] != "task_args":
                    return True
    arguments = nested(updates)
    for task in {**TASKS, **REGRESSION_TASKS}.values():
        with contextlib.suppress(ConfigError):
            convert_fields(task, arguments.get("task_args", arguments), "task_args", frozenset())
            return True
    return False


def settings():
    found = {span: page.name for page in PAGES for span in spans(page) if SETTING.fullmatch(span)}
    left_out = {text for text in found if text.startswith(CONDITIONS) or re.search(r"[<>]", text)} | OF_LIBRARIES
    return [(page, text) for text, page in found.items() if text not in left_out]


@pytest.mark.parametrize(("page", "text"), settings())
def test_a_setting_is_one(page, text):
    assert is_setting(text), f"{page}: no script and no family of tasks has `{text}`"


def test_what_is_no_setting_is_noticed():
    for text in ("learn_inner_lr=per_tensor", "inner_lrr=0.1", "task_args.velocity_higher=3", "clip_actions=true"):
        assert not is_setting(text)
    assert is_setting("task_args.velocity_high=3") and is_setting("replay.priority_exponent=0.6")


def known_files():
    return {path.name for folder in FOLDERS if not folder.startswith(".") and folder not in ("build", "runs")
            for path in (ROOT / folder).rglob("*")} | {path.name for path in ROOT.iterdir()}  # fmt: skip


def is_there(name, page, names):
    """Whether a file is there: from the root, from the page, or from a folder that holds such paths."""
    if "/" not in name:
        return name in names
    places = (ROOT, page.parent, *(ROOT / folder for folder in ("docs", "research", "analysis", "tests", "slurm")))
    return any((place / name).exists() for place in places)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_tests_are_there(page):
    names, text = known_files(), page.read_text(encoding="utf-8")
    tests, library = (
        "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob(pattern))
        for pattern in ("tests/**/*.py", "research/**/*.py")
    )
    made = set(re.findall(r"^```python (\S+)$", text, re.MULTILINE))
    words = [word.strip(",;:()'\"").split("::")[0] for span in spans(page) for word in span.split()]
    if page.name == "design.md":
        words += re.findall(r"[\w/\-]+\.(?:py|sbatch|md|c|cfg|toml|sh|css|js|html)\b", text)
    for word in words:
        if word in made | OF_OTHERS | OF_RECORDS:
            continue
        if FILE.fullmatch(word) and not re.match(r"(runs|build|NAME|PATH)|.*NAME", word):
            assert is_there(word, page, names), f"{page.name}: {word} is not there"
        elif re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w/]+/?", word) and not word.startswith(("runs", "build", ".")):
            assert (ROOT / word).exists() or (ROOT / f"{word}.py").exists(), f"{page.name}: {word} is not there"
        if re.fullmatch(r"test_\w{6,}", word) and f"{word}.py" not in names:
            assert f"def {word}(" in tests or re.search(rf"\b{word}\b", library), f"{page.name}: no test {word}"
