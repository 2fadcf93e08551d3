"""Studies: what workers are given, what they tell, and what is left by those that die."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import time
from dataclasses import replace

import optuna
import pytest
from search_runs import Bench, quality

from slurm.errors import SlurmError
from slurm.search import asha
from slurm.search.file import Budget
from slurm.search.journal import Journal
from slurm.search.space import draws, run_seed
from slurm.search.tables import best, summary, trials_table, with_interrupted
from slurm.search.trials import Done, Job, Outcome, Wait

ASHA = {"asha": {"min_iterations": 1, "reduction": 3}}


def facts(trials):
    return [(trial.number, trial.state, trial.settings, trial.values) for trial in trials]


def test_random_trials_are_the_draws_of_the_space_and_have_seeds_of_their_own(tmp_path):
    bench = Bench(tmp_path)
    trials = bench.finish()
    assert [trial.settings for trial in trials] == [draws(bench.file.space, 3, number) for number in range(20)]
    assert {trial.state for trial in trials} == {"completed"}
    assert [trial.value for trial in trials] == [quality(trial.settings, 9) for trial in trials]
    job = Bench(tmp_path / "two").take(Bench(tmp_path / "three").open(), "w")
    assert job.settings == {"num_iterations": 9, "seed": run_seed(3, 0), **trials[0].settings}
    assert bench.open().trials() == trials


@pytest.mark.parametrize("method", ["random", {"tpe": {"startup": 4}}, ASHA], ids=str)
def test_a_search_of_one_worker_repeats_and_several_workers_lose_nothing(tmp_path, method):
    first = Bench(tmp_path / "1", method=method, budget={"trials": 12}).finish()
    assert facts(Bench(tmp_path / "2", method=method, budget={"trials": 12}).finish()) == facts(first)
    bench = Bench(tmp_path / "3", method=method, budget={"trials": 12})
    several = bench.finish(workers=4)
    assert len(several) == 12 and {trial.state for trial in several} <= {"completed", "stopped"}
    assert len(set(bench.slices)) == len(bench.slices)
    if method == "random":
        assert facts(several) == facts(first)


def test_tpe_begins_as_random_and_then_looks_at_results(tmp_path):
    trials = Bench(tmp_path / "1", method={"tpe": {"startup": 4}}).finish()
    other = Bench(
        tmp_path / "2", lambda settings, step: -quality(settings, step), method={"tpe": {"startup": 4}}
    ).finish()
    space = Bench(tmp_path / "3").file.space
    assert [trial.settings for trial in trials[:4]] == [draws(space, 3, number) for number in range(4)]
    assert [trial.settings for trial in trials[4:]] != [trial.settings for trial in other[4:]]


def simulate(score, count, rungs, reduction):
    """ASHA of one worker, written as the paper has it. Returns the slices."""
    results = [dict() for _ in rungs]
    promoted = [set() for _ in rungs]
    slices, new = [], itertools.count()
    while True:
        for rung in reversed(range(len(rungs) - 1)):
            top = sorted(results[rung], key=lambda trial: -results[rung][trial])[: len(results[rung]) // reduction]
            if found := [trial for trial in top if trial not in promoted[rung]]:
                promoted[rung].add(found[0])
                trial, to = found[0], rung + 1
                break
        else:
            trial, to = next(new), 0
            if trial == count:
                return slices
        results[to][trial] = score(trial, rungs[to])
        slices.append((trial, rungs[to]))


def test_asha_promotes_as_the_paper_says(tmp_path):
    bench = Bench(tmp_path, method=ASHA)
    trials = bench.finish()
    settings = [trial.settings for trial in trials]
    assert bench.slices == simulate(lambda trial, step: quality(settings[trial], step), 20, [1, 3, 9], 3)
    assert {trial.state for trial in trials} == {"completed", "stopped"}
    assert sum(trial.state == "completed" for trial in trials) == 2
    assert best(trials, 1).reached == 9
    assert asha.rungs(1, 3, 9) == [1, 3, 9]


def test_asha_minimizes_if_it_is_told_to(tmp_path):
    objective = {"metric": "score", "direction": "minimize"}
    bench = Bench(tmp_path / "1", lambda settings, step: -quality(settings, step), method=ASHA, objective=objective)
    bench.finish()
    other = Bench(tmp_path / "2", method=ASHA)
    other.finish()
    assert bench.slices == other.slices


def test_a_trial_without_a_finite_objective_loses_and_says_so(tmp_path):
    def score(settings, step):
        return None if settings["x"] > 0 else quality(settings, step)

    for method in ("random", {"tpe": {"startup": 4}}, ASHA):
        trials = Bench(tmp_path / str(method)[:8], score, method=method).finish()
        lost = [trial for trial in trials if trial.settings["x"] > 0]
        assert lost and {trial.state for trial in lost} == {"lost"}
        assert lost[0].note == f"score is not finite at iteration {lost[0].until}"
        assert best(trials, 1).settings["x"] <= 0


def test_what_a_dead_worker_has_begun_is_taken_over_and_done_once(tmp_path):
    bench = Bench(tmp_path, budget={"trials": 2})
    one, two = bench.open(), bench.open()
    job, other = bench.take(one, "a"), bench.take(two, "b")
    assert (job.trial, other.trial) == (0, 1)
    assert isinstance(bench.take(bench.open(), "c"), Wait)
    bench.alive.remove("a")
    assert with_interrupted(two.trials(), bench.alive.__contains__)[0].state == "interrupted"
    assert bench.take(two, "c") == job
    bench.train(job)
    one.tell("a", job, Outcome(0, 1.0))  # it was only suspended
    assert two.trials()[0].state == "running"
    two.tell("c", job, Outcome(0, 1.0))
    two.tell("c", job, Outcome(1, 1.0))
    two.tell("b", other, bench.train(other))
    assert [trial.state for trial in one.trials()] == ["completed", "completed"]
    assert isinstance(bench.take(one, "a"), Done)


def test_a_run_that_is_killed_is_tried_again_but_not_for_ever(tmp_path):
    bench = Bench(tmp_path, budget={"trials": 1})
    study = bench.open()
    for attempt in range(3):
        job = bench.take(study, "a")
        assert isinstance(job, Job) and study.trials()[0].kills == attempt
        study.tell("a", job, Outcome(-9, 1.0, "killed"))
    assert study.trials()[0].state == "failed" and study.trials()[0].seconds == 3
    assert isinstance(bench.take(study, "a"), Done)


def test_a_search_whose_budget_grows_goes_on_as_if_it_had_been_larger(tmp_path):
    """Trials that were stopped at its first end are promoted later."""
    bench, whole = Bench(tmp_path / "1", method=ASHA, budget={"trials": 9}), Bench(tmp_path / "2", method=ASHA)
    stopped = {trial.number: trial.reached for trial in bench.finish() if trial.state == "stopped"}
    bench.file = replace(bench.file, budget=Budget(trials=20))
    trials = bench.finish()
    assert facts(trials) == facts(whole.finish()) and bench.slices == whole.slices
    assert any(trials[number].reached > reached for number, reached in stopped.items())


def test_a_slice_that_was_stopped_counts_its_time_and_goes_on(tmp_path):
    bench = Bench(tmp_path, budget={"core_minutes": 5 / 60})
    study = bench.open()
    for _ in range(4):  # more often than a run may be killed
        job = bench.take(study, "a")
        study.tell("a", job, Outcome(85, 1.0, stopped=True))
    (trial,) = study.trials()
    assert (trial.number, trial.seconds, trial.kills, trial.worker, trial.state) == (0, 4.0, 0, None, "running")
    assert with_interrupted([trial], bench.alive.__contains__)[0].state == "interrupted"
    study.tell("b", bench.take(study, "b"), bench.train(job))
    assert study.trials()[0].state == "completed"
    assert isinstance(bench.take(study, "b"), Done)  # all of the five seconds are used up


def test_settings_that_are_refused_lose_and_errors_fail(tmp_path):
    bench = Bench(tmp_path)
    study = bench.open()
    for status, state in ((2, "lost"), (1, "failed")):
        job = bench.take(study, "a")
        study.tell("a", job, Outcome(status, 1.0, "error: so it is"))
        trial = study.trials()[-1]
        assert (trial.state, trial.status, trial.note) == (state, status, "error: so it is")


def test_an_objective_that_no_record_has_ends_the_search(tmp_path):
    bench = Bench(tmp_path, objective={"metric": "scor"})
    with pytest.raises(SlurmError, match=r"objective.metric='scor': .* has no such metric; did you mean score\?"):
        bench.finish()
    assert len(bench.slices) == 1 and "Correct the objective" in bench.open().problem()
    bench = Bench(tmp_path / "2", objective={"metric": "result.score.2"})
    with pytest.raises(SlurmError, match=r"the result of .* has no '2' there; there are 0, 1"):
        bench.finish()
    assert [trial.value for trial in Bench(tmp_path / "3", objective={"metric": "result.score.-1"}).finish()] == [
        2.0
    ] * 20


def test_a_search_whose_first_trials_all_fail_ends(tmp_path):
    bench = Bench(tmp_path)
    study = bench.open()
    for _ in range(3):
        study.tell("a", bench.take(study, "a"), Outcome(1, 1.0, "no GPU"))
    with pytest.raises(SlurmError, match="the first 3 trials have failed: run 1: no GPU"):
        bench.take(study, "a")


def test_a_search_whose_first_trials_are_all_refused_ends(tmp_path):
    """Exit status 2 may mean that nothing can start here; a value that is not finite says that it can."""
    bench = Bench(tmp_path / "1")
    study = bench.open()
    for _ in range(3):
        study.tell("a", bench.take(study, "a"), Outcome(2, 1.0, "error: no such file"))
    with pytest.raises(SlurmError, match="the first 3 trials have failed: run 1: error: no such file"):
        bench.take(study, "a")
    assert {trial.state for trial in study.trials()} == {"lost"}
    diverged = Bench(tmp_path / "2", lambda settings, step: None, budget={"trials": 4}).finish()
    assert [trial.state for trial in diverged] == ["lost"] * 4


@pytest.mark.parametrize("budget", [{"core_minutes": 0.05}, {"until": "2020-01-01"}])
def test_nothing_begins_once_the_budget_is_used_up(tmp_path, budget):
    trials = Bench(tmp_path, method=ASHA, budget=budget).finish()
    assert len(trials) == (3 if "core_minutes" in budget else 0)
    assert all(trial.state == "stopped" for trial in trials)


def test_a_transaction_that_was_cut_short_never_was(tmp_path):
    bench = Bench(tmp_path, budget={"trials": 3})
    study = bench.open()
    job = bench.take(study, "a")
    whole = (tmp_path / "study.jsonl").read_bytes()
    study.tell("a", job, bench.train(job))
    told = (tmp_path / "study.jsonl").read_bytes()
    for size in range(len(whole) + 1, len(told), 97):
        (tmp_path / "study.jsonl").write_bytes(told[:size])
        assert [trial.state for trial in bench.open().trials()] == ["running"]
    again = bench.open()
    again.tell("a", job, Outcome(0, 1.0))
    assert again.trials()[0].state == "completed"
    assert [json.loads(line)["left"] for line in told.splitlines()][-1] == 0
    bench.finish()
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.jsonl")))
    assert len(optuna.load_study(study_name="search", storage=storage).trials) == 3


def test_an_error_in_a_transaction_leaves_nothing(tmp_path, monkeypatch):
    bench = Bench(tmp_path)
    study = bench.open()

    def fail(*_):
        raise OSError("full")

    with monkeypatch.context() as broken:
        broken.setattr("slurm.search.study.claim_number", fail)
        with pytest.raises(OSError, match="full"):
            bench.take(study, "a")
    assert study.trials() == [] and bench.take(study, "a").trial == 0


def _count(path):
    journal = Journal(path)
    for _ in range(25):
        with journal.transaction():
            number = len(list(journal.read_logs(0)))
            time.sleep(0.001)
            journal.append_logs([{"number": number}])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_transactions_of_several_processes_exclude_each_other(tmp_path):
    path, context = tmp_path / "study.jsonl", multiprocessing.get_context("fork")
    workers = [context.Process(target=_count, args=(path,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert [entry["number"] for entry in Journal(path).read_logs(0)] == list(range(100))


def test_a_damaged_journal_is_named(tmp_path):
    path = tmp_path / "study.jsonl"
    path.write_text('{"op_code": 0}\nnonsense\n')
    with pytest.raises(SlurmError, match=r"study.jsonl: line 2 is damaged: b'nonsense"):
        list(Journal(path).read_logs(0))
    with pytest.raises(RuntimeError, match="can only be written in a transaction"):
        Journal(path).append_logs([])


def test_tables_have_the_best_first(tmp_path):
    bench = Bench(tmp_path, method=ASHA)
    trials = bench.finish()
    text = summary("toy-1", bench.file, trials, 2)
    assert "toy-1: asha, 20 of 20 trials, 0.5 core-minutes; workers alive: 2" in text
    assert f"best: trial {best(trials, 1).number}, " in text and "2 completed" in text
    table = trials_table(trials + trials, 1)
    assert table.columns[0]._cells[0] == str(best(trials, 1).number) and table.row_count == 20
