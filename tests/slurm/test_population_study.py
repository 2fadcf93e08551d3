"""Studies of the method pbt on real records: the same lineage and the same states, whoever trains and whoever dies."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy_experiment

from analysis.data.populations import load_population
from research import checkpoint, rng
from research.conversion import ConfigError
from research.population.settings import PopulationConfig
from research.tracking.adopting import read_lineage
from research.tracking.records import read_config, read_rows, read_run
from slurm.changes import changes_of
from slurm.errors import SlurmError
from slurm.search.check import as_sweep, check_objective
from slurm.search.file import Budget, Method, SearchFile
from slurm.search.objective import Objective, value_of
from slurm.search.population_study import PopulationStudy, refuse_constant
from slurm.search.space import parse_space
from slurm.search.trials import Done, Job, Outcome, Wait

LENGTH = 12


def search(space: Any = None, members: int = 4, **pbt: Any) -> SearchFile:
    return SearchFile(
        "toy",
        parse_space(space or {"lr": {"log": [0.001, 0.5]}}),
        Objective("eval/score_after_0"),
        Budget(trials=members),
        Method("pbt", PopulationConfig(members=members, interval=4, **pbt)),
        fixed={"num_iterations": LENGTH, "eval_interval": 4, "checkpoint_interval": 3},
        seed=3,
    )


def study_in(directory: Path, file: SearchFile | None = None) -> PopulationStudy:
    path = directory / "runs" / "_searches" / "toy-1" / "study.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True)
        PopulationStudy.create(path, file or search())
    return PopulationStudy(path, file or search(), LENGTH, directory / "runs", lambda: toy_experiment.Config)


def train(study: PopulationStudy, job: Job) -> Outcome:
    """Trains a slice in this process, as its command line does."""
    path = study.path.parent / f"{job.run}.json"
    path.write_text(json.dumps({**job.settings, "runs_dir": str(study.runs_dir), "run": job.run}))
    line = [toy_experiment.__file__, "ensure", f"--overrides={path}", f"--stop-at={job.until}", *job.options]
    try:
        toy_experiment.make().run_commandline(line)
    except SystemExit as exit_:
        return Outcome(int(exit_.code or 0), 1.0, "" if not exit_.code else "failed")
    return Outcome(0, 1.0)


def work_alone(study: PopulationStudy) -> None:
    while isinstance(job := study.take("w", lambda worker: True), Job):
        study.tell("w", job, train(study, job))
    assert isinstance(job, Done)


def outcome(study: PopulationStudy) -> Any:
    """Everything that must not depend on how a search was carried out; ids of runs may differ."""
    found = []
    for trial in study.trials():
        directory = study.runs_dir / str(trial.run)
        state = checkpoint.load(directory / "checkpoints" / "latest.pt").state
        rows = [(row["step"], {key: value for key, value in row["values"].items() if not key.startswith("time/")})
                for row in read_rows(directory)]  # fmt: skip
        lineage = [
            {key: value for key, value in note.items() if key != "donor_run"} for note in read_lineage(directory)
        ]
        config = {key: value for key, value in read_config(directory).items() if key not in ("runs_dir", "run")}
        found.append((state["params"]["x"].tolist(), rows, lineage, config, trial.values, trial.settings, trial.state))
    return study.lineage(), found


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> PopulationStudy:
    study = study_in(tmp_path_factory.mktemp("alone"))
    work_alone(study)
    return study


def test_records_say_who_was_copied_and_go_on_with_that_state(alone):
    copied = [
        (past["generation"], one)
        for past in alone.lineage()
        for one in past["decisions"]
        if one["donor"] != one["member"]
    ]
    assert len(alone.lineage()) == 2
    assert copied
    trials = alone.trials()
    for generation, one in copied:
        trial, donor = trials[one["member"]], trials[one["donor"]]
        note = next(note for note in read_lineage(alone.runs_dir / str(trial.run)) if note["generation"] == generation)
        assert (note["donor"], note["donor_run"], note["changed"]) == (one["donor"], donor.run, one["changed"])
        resumed = read_run(alone.runs_dir / str(trial.run))["resumed"]
        changed = next(entry["changed"] for entry in resumed if entry["iteration"] == 4 * (generation + 1))
        assert changed == one["changed"]
    assert [trial.state for trial in trials] == ["completed"] * 4
    assert all(list(trial.values) == [4, 8, 12] for trial in trials)
    for trial in trials:
        assert read_run(alone.runs_dir / str(trial.run))["status"] == "COMPLETED"
        assert [row["step"] for row in read_rows(alone.runs_dir / str(trial.run)) if "loss" in row["values"]] == list(
            range(1, 13)
        )


@pytest.mark.thorough
def test_three_workers_that_die_end_with_the_same_records(tmp_path, alone):
    """Workers die before they train, after that, and while they do; others take their slices over."""
    study, draws = study_in(tmp_path), rng.generator(0, "deaths")
    held: dict[str, Job] = {}
    alive = {"w0", "w1", "w2"}
    number, deaths = 3, 0
    while True:
        worker = sorted(alive)[int(draws.integers(3))]
        step = held.pop(worker, None) or study_in(tmp_path).take(worker, alive.__contains__)
        if isinstance(step, Done):
            break
        if isinstance(step, Wait):
            continue
        if deaths < 6 and draws.random() < 0.35:
            if draws.random() < 0.5:
                part = step._replace(until=step.until - 2)  # it stops on the way
                train(study, part)
            alive = (alive - {worker}) | {f"w{number}"}
            number, deaths = number + 1, deaths + 1
        elif draws.random() < 0.4:
            held[worker] = step
        else:
            study.tell(worker, step, train(study, step))
    assert deaths >= 3
    assert outcome(study) == outcome(alone)


@pytest.mark.thorough
def test_killed_slices_are_repeated_and_failures_leave_the_population(tmp_path):
    study = study_in(tmp_path, search(members=3))
    first = study.take("w", lambda worker: True)
    for _ in range(2):
        study.tell("w", first, Outcome(-9, 1.0, "killed"))
        assert study.take("w", lambda worker: True)[:2] == first[:2]
    study.tell("w", first, Outcome(-9, 1.0, "killed"))
    trial = study.trials()[0]
    assert (trial.state, trial.note, trial.seconds, trial.kills) == ("failed", "killed", 3.0, 2)
    work_alone(study)
    assert [trial.state for trial in study.trials()] == ["failed", "completed", "completed"]


def test_members_without_a_value_lose(tmp_path):
    """Their metric is NaN, so they go on from the state of another one."""
    study = study_in(tmp_path)
    while not study.lineage():
        job = study.take("w", lambda worker: True)
        assert train(study, job).status == 0
        if job.trial == 1:
            metrics = study.runs_dir / str(job.run) / "metrics.jsonl"
            lines = [json.loads(line) for line in metrics.read_text().splitlines()]
            for line in lines:
                line.pop("crc", None)
                line["values"] = {
                    key: None if key.startswith("eval") else value for key, value in line["values"].items()
                }
            metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        study.tell("w", job, Outcome(0, 1.0))
        if sum(bool(trial.values) or bool(trial.note) for trial in study.trials()) == 4:
            break
    assert "is not finite at iteration 4" in study.trials()[1].note
    study.take("w", lambda worker: True)
    (decided,) = study.lineage()
    assert decided["values"][1] is None
    assert decided["decisions"][1]["donor"] != 1


def test_a_used_up_budget_begins_no_slice(tmp_path):
    file = search()
    study = study_in(tmp_path, SearchFile(**{**vars(file), "budget": Budget(core_minutes=1.5 / 60)}))
    for _ in range(2):
        job = study.take("w", lambda worker: True)
        study.tell("w", job, Outcome(0, 1.0) if not train(study, job).status else Outcome(1, 1.0))
    assert isinstance(study.take("w", lambda worker: True), Done)


def test_a_search_whose_members_have_all_failed_says_so(tmp_path):
    study = study_in(tmp_path, search(members=2))
    for _ in range(2):
        assert study.problem() == ""
        study.tell("w", study.take("w", lambda worker: True), Outcome(1, 1.0, "no such file"))
    assert study.problem() == "all 2 members have failed, the first one: no such file"
    with pytest.raises(SlurmError, match="toy-1: all 2 members have failed"):
        study.take("w", lambda worker: True)


def test_refuses_what_cannot_change(tmp_path):
    with pytest.raises(SlurmError, match=r"space\.surface\.size: cannot change while a run trains.*that can are lr"):
        refuse_constant(changes_of(toy_experiment.Config), parse_space({"surface.size": {"int": [1, 3]}}))


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ({"rate": 0.1}, r"method\.pbt\.initial\.rate: no such key in space"),
        ({"lr": 0.7}, r"method\.pbt\.initial\.lr=0\.7: need a number from 0\.001 to 0\.5, as in space"),
        ({"lr": "fast"}, r"method\.pbt\.initial\.lr='fast': need a number"),
        ({"lr": [0.1]}, r"method\.pbt\.initial\.lr=\[0\.1\]: need a number"),
    ],
)
def test_refuses_other_first_settings_than_those_of_the_space(initial, message):
    with pytest.raises(ConfigError, match=message):
        search(initial=initial)


def test_first_settings_have_the_types_of_the_space_and_are_checked(tmp_path):
    """A whole number for a real one would be perturbed to whole numbers."""
    file = search({"lr": {"float": [0.5, 2]}}, initial={"lr": 1})
    assert any(row == {"lr": 1.0} for row in as_sweep(file).list)
    job = study_in(tmp_path, file).take("w", lambda worker: True)
    assert type(job.settings["lr"]) is float and job.settings["lr"] == 1


def test_refuses_another_number_of_trials():
    with pytest.raises(ConfigError, match=r"budget\.trials=20: the trials of pbt are its method\.pbt\.members=4"):
        replace(search(), budget=Budget(trials=20))


@pytest.mark.parametrize(
    ("objective", "settings", "message"),
    [
        (Objective("eval/score_after_0", at="best"), {}, r"objective\.at='best': need last with pbt"),
        (Objective("loss", at=4), {}, r"objective\.at=4: need last with pbt"),
        (Objective("eval/score_after_0", points=2), {}, r"objective\.points=2: .*, iterations 1 to 4, has 1 of eval"),
        (Objective("loss", points=5), {}, r"objective\.points=5: .*, iterations 1 to 4, has 4 of loss"),
        (Objective("eval/score_after_0"), {"num_iterations": 10}, r"iterations 9 to 10, has 0 of eval/score_after_0"),
    ],
)  # fmt: skip
def test_refuses_objectives_that_reach_beyond_a_slice(objective, settings, message):
    given = {"num_iterations": LENGTH, "eval_interval": 4, **settings}
    check_objective(search(), Path("toy.yaml"), {"num_iterations": LENGTH, "eval_interval": 4})
    with pytest.raises(SlurmError, match=f"toy.yaml: .*{message}"):
        check_objective(replace(search(), objective=objective), Path("toy.yaml"), given)


def test_the_value_of_a_slice_is_that_of_its_own_points(tmp_path):
    """What was measured before the slice may be of a state that was given up."""
    study = study_in(tmp_path, replace(search(members=2), objective=Objective("eval/score_after_0", points=2)))
    while len(study.lineage()) < 2:
        job = study.take("w", lambda worker: True)
        study.tell("w", job, train(study, job))
    for trial in study.trials():
        rows, name = read_rows(study.runs_dir / str(trial.run)), "eval/score_after_0"
        points = {row["step"]: row["values"][name] for row in rows if name in row["values"]}
        assert trial.values[8] == points[8] != points[4] == trial.values[4]
        with pytest.raises(SlurmError, match="has no point of it in iterations 9 to 11"):
            value_of(study.file.objective, study.runs_dir / str(trial.run), 11, since=8)


def test_an_objective_that_no_record_has_ends_the_search(tmp_path):
    study = study_in(tmp_path, replace(search(), objective=Objective("eval/scor")))
    job = study.take("w", lambda worker: True)
    study.tell("w", job, train(study, job))
    assert study.trials()[0].state == "failed"
    with pytest.raises(SlurmError, match=r"objective.metric='eval/scor': .* no such metric; .*Correct the objective"):
        study.take("w", lambda worker: True)


def test_a_slice_that_was_stopped_counts_its_time_and_no_kill(tmp_path):
    study = study_in(tmp_path, replace(search(), budget=Budget(core_minutes=5 / 60)))
    for _ in range(4):
        job = study.take("w", lambda worker: True)
        assert job.trial == 0
        study.tell("w", job, Outcome(85, 1.0, stopped=True))
    trial = study.trials()[0]
    assert (trial.seconds, trial.kills, trial.worker, trial.state) == (4.0, 0, None, "paused")
    study.tell("w", study.take("w", lambda worker: True), Outcome(-9, 1.0, "killed"))
    assert study.trials()[0].kills == 1
    assert isinstance(study.take("w", lambda worker: True), Done)


def test_a_member_whose_run_refuses_its_settings_goes_on_with_those_of_the_donor(tmp_path):
    """A network that cannot grow costs the population no member; a run that refuses the donor's settings, too, does."""
    study = study_in(tmp_path)
    while not (job := study.take("w", lambda worker: True)).options:
        study.tell("w", job, train(study, job))
    ended = len(study.lineage()) - 1
    members = load_population(study.path).members
    before = members[members["generation"] == ended].set_index("member")["lr"]
    donor = study.lineage()[-1]["decisions"][job.trial]["donor"]
    study.tell("w", job, Outcome(2, 1.0, "error: 6 units: need a multiple of 4"))
    again = study.take("w", lambda worker: True)
    assert (again.trial, again.run, again.until) == (job.trial, job.run, job.until)
    kept = study.lineage()[-1]["decisions"][job.trial]
    assert kept["donor"] == donor != job.trial
    assert kept["settings"]["lr"] == again.settings["lr"] == before[donor] != job.settings["lr"]
    assert kept["why"] == "refused: error: 6 units: need a multiple of 4"
    trial = study.trials()[job.trial]
    assert (trial.note, trial.seconds) == (f"copied {donor}: {kept['why']}", ended + 2)
    assert train(study, again).status == 0
    note = read_lineage(study.runs_dir / str(job.run))[-1]
    assert (note["settings"], note["changed"]) == (kept["settings"], kept["changed"])
    copies = load_population(study.path).copies.set_index(["generation", "member"])
    assert copies.loc[(ended, job.trial), "lr after"] == before[donor]
    study.tell("w", again, Outcome(2, 1.0, "error: no such file"))
    assert study.trials()[job.trial].state == "failed"
