"""One search in several processes: this one hands out the trials, workers train them.

On one machine `launch` does everything. On several machines Keras Tuner's own way works with the tuners here:
start the same script once for each process, with

    KERASTUNER_TUNER_ID     "chief" for the one that hands out the trials; any other name, each once, for a worker
    KERASTUNER_ORACLE_IP    address of the chief's machine, as the workers reach it
    KERASTUNER_ORACLE_PORT  a free port there

and a `directory` that all of them share, since workers write and read the weights of trials themselves. Start a
worker that died again under its own name: only then its trial is finished. Whoever reaches the port can change the
search, without a password: bind it to a private network only.
"""

from __future__ import annotations

import functools
import importlib
import io
import multiprocessing.spawn
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from keras_tuner.src.distribute import utils as processes
from keras_tuner.src.engine.trial import Trial, TrialStatus

import keras_aeprune
from keras_aeprune import _files
from keras_aeprune._validation import InputError, positive_int, refuse, shown
from keras_aeprune.search import state
from keras_aeprune.search.tuner import Repaired

__all__ = ["hand_out", "launch"]

_ADDRESS = "127.0.0.1"
_DATA = "workers.npz"
_MESSAGE = "message.txt"
_LARGE = 1024  # bytes from which an array goes through the file
_POLL = 0.1  # seconds
_TAIL = 25  # lines of a dead worker's output that are shown
# A worker watches its pipe before it imports anything: it ends with the launcher, however that ends.
_START = """
import os, pickle, sys, threading
job = sys.stdin.buffer.read(int(sys.stdin.buffer.readline()))
threading.Thread(target=lambda: (os.read(0, 1), os.killpg(0, 9)), daemon=True).start()
from keras_aeprune.search.workers import work
work(job)
"""


def launch(
    make_tuner: Callable[[], Any],
    *fit_args: Any,
    workers: int = 2,
    threads: int | None = None,
    restarts: int = 3,
    **fit_kwargs: Any,
) -> Any:
    """Run a search of one of this package's tuners in several processes on this machine, to its end.

    Use it in place of `tuner.search(...)` where trials take longer than some seconds and there are cores to spare.
    The trials are those of one process, and so are their weights as far as the number of threads allows. A search
    that was begun with workers goes on without, with other numbers of them, and the other way round.

    A worker that is killed is started again under the same name, which gives it back its trial. Workers end with
    this process, also when it is killed; their output is in the project's folder, in worker0.log and so on.

    Args:
        make_tuner: function without arguments that makes the tuner, called once in each process: a function at the
            top level of a file, or a `functools.partial` of a class or such a function. In a script that is run,
            `launch` must stand under `if __name__ == "__main__":`.
        *fit_args: as for `tuner.search`. Arrays go through a file in the project's folder while the search runs;
            all else must be picklable (no tf.data.Dataset: make it in the `fit` of a `keras_tuner.HyperModel`).
        workers: processes that train, 1 or more.
        threads: of TensorFlow in each of them, 1 or more; None shares out the cores.
        restarts: times that each worker is started again after it was killed, or died of an error after a trial
            had ended, 0 or more.
        **fit_kwargs: as for `tuner.search`.

    Returns:
        The tuner, after the search.

    Raises:
        InputError: for arguments that cannot be used or sent, or within a worker.
        RuntimeError: if a worker cannot be kept alive, or no trial succeeded; with the last lines of the reason.

    Example:
        >>> from functools import partial
        >>> make = partial(Hyperband, build_model, "val_loss", directory="run")   # doctest: +SKIP
        >>> tuner = launch(make, x, x, validation_data=(v, v), workers=4)   # doctest: +SKIP
        >>> launch(lambda: None)
        Traceback (most recent call last):
            ...
        keras_aeprune._validation.InputError: launch: this cannot be sent to a worker ...
    """
    positive_int("workers", workers)
    positive_int("restarts", restarts, minimum=0)
    threads = max(1, _cores() // workers) if threads is None else positive_int("threads", threads)
    if processes.has_chief_oracle():
        raise InputError(
            "launch: this process is itself a worker or chief (KERASTUNER_ORACLE_IP is set), allowed: one "
            'launcher; in a script put launch under if __name__ == "__main__":'
        )
    payload, arrays = _packed((make_tuner, fit_args, fit_kwargs))
    preparation = _preparation(payload)
    tuner = make_tuner()
    if not isinstance(tuner, Repaired):
        raise refuse("make_tuner", tuner, "a function that returns a tuner of keras_aeprune.search")
    data = {"data": state.data_identity(fit_args, fit_kwargs)}
    state.compare_manifest(tuner.project_dir, {**tuner._manifest, **data})
    tuner.save()
    names = [f"worker{number}" for number in range(workers)]
    if tuner.oracle.create_trial(names[0]).status != TrialStatus.STOPPED:  # it is kept for that worker
        file = Path(tuner.project_dir) / _DATA
        named: dict[str, Any] = arrays
        with _files.writing(file) as temporary:
            np.savez(temporary, **named)
        try:
            with _serving(tuner.oracle) as (port, _):
                job = pickle.dumps((preparation, str(file), payload))
                _Workers(tuner, job, _environment(port, threads), restarts).run(names)
        finally:
            file.unlink()
            tuner.oracle.remove_unfinished()
    tuner.oracle._display.finish()
    if tuner.oracle.failure():
        raise RuntimeError(f"the search has no result: {tuner.oracle.failure()}")
    return tuner


@contextmanager
def _serving(oracle: Any, address: str = _ADDRESS + ":0") -> Iterator[tuple[int, Any]]:
    """Hand out the trials at "IP:PORT" while the block lasts; yields the port (0 is a free one) and by whom."""
    try:
        grpc = importlib.import_module("grpc")
        chief = importlib.import_module("keras_tuner.src.distribute.oracle_chief")
        service = chief.protos.get_service_grpc()
    except ImportError as error:
        message = f"workers: a package is missing ({error}), allowed: with grpcio; pip install grpcio protobuf"
        raise InputError(message) from None
    servicer = chief.OracleServicer(oracle)

    def end_trial(request: Any, context: Any) -> Any:
        trial = Trial.from_proto(request.trial)
        trial.message = _told(oracle, trial)
        known = oracle.get_trial(trial.trial_id).hyperparameters.values
        trial.hyperparameters.values = {**known, **trial.hyperparameters.values, **known}  # in their order
        oracle.end_trial(trial)
        return chief.protos.get_service().EndTrialResponse()

    servicer.EndTrial = end_trial
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1), options=(("grpc.so_reuseport", 0),))
    service.add_OracleServicer_to_server(servicer, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        raise refuse("address", address, "IP:PORT of this machine that nobody listens at") from None
    server.start()
    try:
        yield port, servicer
    finally:
        server.stop(grace=1.0).wait()  # seconds for an answer that is on its way


def hand_out(oracle: Any) -> None:
    """What the chief of several machines does: hand out trials until all workers have been sent home.

    Keras Tuner's own looks only every 20 seconds whether it may end.

    Args:
        oracle: of a tuner of this package; the address is in the environment variables that are named above.

    Raises:
        InputError: if grpcio is not installed, or somebody listens at that port already.
    """
    address = f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
    with _serving(oracle, address) as (_, servicer):
        while not servicer.stop_triggered or oracle.tuner_ids or oracle.ongoing_trials:
            time.sleep(_POLL)


class _Workers:
    """The processes that train, and what becomes of them."""

    def __init__(self, tuner: Any, job: bytes, environment: Mapping[str, str], restarts: int):
        self.oracle, self.folder = tuner.oracle, Path(tuner.project_dir)
        self.say = tuner.oracle._display._say
        self.job, self.environment, self.restarts = job, environment, restarts
        self.running: dict[str, subprocess.Popen] = {}
        self.died: dict[str, int] = {}
        self.ended: dict[str, int] = {}  # trials that had ended when the worker was started

    def run(self, names: Sequence[str]) -> None:
        """Until the oracle has sent all of them home."""
        try:
            for name in names:
                self._log(name).write_bytes(b"")
                self._start(name)
            while self.running:
                time.sleep(_POLL)
                for name, process in list(self.running.items()):
                    if process.poll() is not None:
                        self._left(name, process)
        finally:
            for process in self.running.values():
                _end(process)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _start(self, name: str) -> None:
        self.ended[name] = len(self.oracle.end_order)
        with open(self._log(name), "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _START],
                env={**self.environment, "KERASTUNER_TUNER_ID": name},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the launcher, and all that a worker starts ends with it
            )
        self.running[name] = process
        with suppress(BrokenPipeError):  # it is dead already, which the next look at it finds
            _stdin(process).write(b"%d\n" % len(self.job) + self.job)
            _stdin(process).flush()

    def _left(self, name: str, process: subprocess.Popen) -> None:
        """Go on after a process ended: without it, or with another one of its name."""
        del self.running[name]
        with suppress(BrokenPipeError):  # what of the job it had not read
            _stdin(process).close()
        status = process.returncode
        if not status:
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        self.died[name] = self.died.get(name, 0) + 1
        hopeless = status > 0 and self.ended[name] == len(self.oracle.end_order)  # an error before the first trial
        if hopeless or self.died[name] > self.restarts:
            often = "" if hopeless else f", for the {self.died[name]}. time (restarts={self.restarts})"
            lines = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()
            raise RuntimeError(
                f"workers: {name} {how}{often}; the same search goes on when it is started again. The end of "
                f"{str(self._log(name))!r}:\n" + "\n".join(lines[-_TAIL:])
            )
        self.say(f"{name} {how} and is started again", True)
        self._start(name)


def _stdin(process: subprocess.Popen) -> IO[bytes]:
    """The pipe to a worker; all are started with one."""
    assert process.stdin is not None
    return process.stdin


def _end(process: subprocess.Popen) -> None:
    """Kill a worker and all that it started; state files are whole at any moment."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with suppress(BrokenPipeError):
        _stdin(process).close()


def work(job: bytes) -> None:
    """What a worker does."""
    preparation, file, payload = pickle.loads(job)
    multiprocessing.spawn.prepare(preparation)
    with np.load(file, allow_pickle=False) as arrays:
        make_tuner, fit_args, fit_kwargs = _Unpickler(io.BytesIO(payload), dict(arrays)).load()
    tuner = make_tuner()
    tuner.oracle.end_trial = functools.partial(_tell, tuner.oracle)
    tuner.search(*fit_args, **fit_kwargs)


def _tell(client: Any, trial: Trial) -> None:
    """End a trial; what went wrong in it goes through a file, as Keras Tuner's messages have no place for it."""
    if trial.message:
        with _files.writing(client._oracle._folder(trial.trial_id) / _MESSAGE) as temporary:
            temporary.write_text(trial.message, encoding="utf-8")
    type(client).end_trial(client, trial)


def _told(oracle: Any, trial: Trial) -> str | None:
    file = oracle._folder(trial.trial_id) / _MESSAGE
    message = file.read_text(encoding="utf-8") if file.exists() else None
    file.unlink(missing_ok=True)
    return message


class _Pickler(pickle.Pickler):
    """Puts large arrays aside."""

    def __init__(self, file: Any):
        super().__init__(file, protocol=5)
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}

    def persistent_id(self, value: Any) -> str | None:
        if type(value) is not np.ndarray or value.dtype.kind not in "biufc" or value.nbytes < _LARGE:
            return None
        name = self._names.setdefault(id(value), f"array{len(self._names)}")
        self.arrays[name] = value
        return name


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, arrays: Mapping[str, np.ndarray]):
        super().__init__(file)
        self._arrays = arrays

    def persistent_load(self, name: str) -> np.ndarray:
        return self._arrays[name]


def _packed(job: Any) -> tuple[bytes, dict[str, np.ndarray]]:
    file = io.BytesIO()
    pickler = _Pickler(file)
    try:
        pickler.dump(job)
    except Exception as error:  # each type of object refuses in its own way
        raise InputError(
            f"launch: this cannot be sent to a worker ({shown(str(error))}), allowed: functions and classes at "
            "the top level of a file, functools.partial of them, arrays, and what else pickle takes"
        ) from None
    return file.getvalue(), pickler.arrays


def _preparation(payload: bytes) -> dict[str, Any]:
    """How Python's own spawned processes are made like this one; the script is run again only if it is needed."""
    found = multiprocessing.spawn.get_preparation_data("worker")
    found.pop("authkey", None)
    main = {key: found.pop(key) for key in list(found) if key.startswith("init_main_from")}
    if b"__main__" not in payload:
        return found
    if not main:
        raise InputError(
            "make_tuner: got something that is defined in a notebook or a session, where workers cannot find it, "
            "allowed: functions and classes of a .py file that is imported"
        )
    return {**found, **main}


def _environment(port: int, threads: int) -> dict[str, str]:
    home = str(Path(keras_aeprune.__file__).parent.parent)
    own = {name: str(threads) for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")}
    own |= {"KERASTUNER_ORACLE_IP": _ADDRESS, "KERASTUNER_ORACLE_PORT": str(port), "no_grpc_proxy": _ADDRESS}
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(paths)}


def _cores() -> int:
    return len(os.sched_getaffinity(0))
