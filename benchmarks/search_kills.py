"""A search that is killed at random moments and started again: what is lost, and is the project ever unreadable?

Tiny real trainings under search.Hyperband, in processes that are ended by SIGKILL. A process notes each trial that
it begins, and each that has ended, in a file beside the project. After every kill the next process must open the
project; lost are trials that had ended and are trained once more, repeated is the one that was running.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

FULL, QUICK = 100, 5  # kills
NOTES = 8  # a process is killed after fewer notes than this, drawn at random, and a random moment more,
LONGEST = 1.0  # seconds at most


def worker(folder, project, log):
    """Search; runs in a process that was forked after the imports."""
    import keras
    import keras_tuner
    import numpy as np
    from keras import layers

    from keras_aeprune.search.tuner import Hyperband

    x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")

    def note(what, trial=""):
        with open(log, "a") as file:
            file.write(f"{what} {trial}\n")
            file.flush()
            os.fsync(file.fileno())

    class Model(keras_tuner.HyperModel):
        def build(self, hp):
            model = keras.Sequential([keras.Input((8,)), layers.Dense(hp.Int("n", 1, 99)), layers.Dense(8)])
            model.compile("adam", "mse")
            return model

    class Noting(Hyperband):
        def on_trial_begin(self, trial):
            note("begin", trial.trial_id)
            super().on_trial_begin(trial)

        def on_trial_end(self, trial):
            super().on_trial_end(trial)
            note("end", trial.trial_id)

    tuner = Noting(
        Model(), "val_loss", max_epochs=4, factor=2, directory=folder, project_name=project, progress=False
    )
    for trial in tuner.get_best_trials(3) if len(tuner.oracle.end_order) > 12 and tuner.oracle.ranked() else ():
        tuner.load_model(trial)
    note("opened")
    tuner.search(x, x, validation_data=(x, x))
    note("finished")


def _fork(folder, project, log, errors):
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open(errors, "a") as file:
            os.dup2(file.fileno(), 2)
            os.dup2(file.fileno(), 1)
        worker(folder, project, log)
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _lines(log):
    return log.read_text().splitlines() if log.exists() else []


def _ended(child, until):
    """The exit status of a child that ended by itself before `until`, or None."""
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def run(quick):
    wanted, rng = QUICK if quick else FULL, random.Random(0)
    import keras_aeprune.search.tuner  # noqa: F401 (loaded once, before the forks)

    count = {"kills": 0, "resumes": 0, "unreadable": 0, "lost": 0, "repeated": 0, "most at once": 0, "ended": 0}
    with tempfile.TemporaryDirectory() as folder:
        project = 0
        while count["kills"] < wanted:
            log, errors = Path(folder) / f"log{project}", Path(folder) / f"errors{project}"
            seen = _lines(log)
            enough = len(seen) + rng.randrange(NOTES)
            child = _fork(folder, f"search{project}", log, errors)
            status = None
            while status is None and len(_lines(log)) < enough:
                status = _ended(child, time.monotonic() + 0.01)
            if status is None:
                status = _ended(child, time.monotonic() + rng.uniform(0, LONGEST))
            if status is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                count["kills"] += 1
            count["resumes"] += bool(seen)
            _count_repeats(count, seen, _lines(log)[len(seen) :])
            if status not in (None, 0):
                count["unreadable"] += 1
                print(errors.read_text()[-2000:], file=sys.stderr)
            project += status is not None
    return count


def _count_repeats(count, before, now):
    ended = {line.split()[1] for line in before if line.startswith("end ")}
    begun = {line.split()[1] for line in before if line.startswith("begin ")}
    again = [line.split()[1] for line in now if line.startswith("begin ")]
    lost, repeated = sum(name in ended for name in again), sum(name in begun - ended for name in again)
    count["lost"] += lost
    count["ended"] += sum(line.startswith("end ") for line in now)
    count["repeated"] += repeated
    count["most at once"] = max(count["most at once"], lost + repeated)


def show(result):
    return (
        f"{result['kills']} kills, {result['resumes']} resumes: {result['unreadable']} projects unreadable, "
        f"{result['lost']} ended trials lost, {result['repeated']} running ones repeated "
        f"(at most {result['most at once']} at a time), {result['ended']} trials ended"
    )


if __name__ == "__main__":
    print(json.dumps(run("--quick" in sys.argv)))
