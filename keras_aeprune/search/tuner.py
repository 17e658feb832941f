"""Keras Tuner's tuners with their faults repaired: Hyperband, random search, Bayesian optimization."""

from __future__ import annotations

import importlib
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.src.distribute import utils as processes
from keras_tuner.src.engine import tuner_utils
from keras_tuner.src.engine.trial import TrialStatus

from keras_aeprune import _files, _progress
from keras_aeprune._validation import InputError, WrongKerasError, keras_model, positive_int, refuse
from keras_aeprune.search import brackets, checkpoints, display, memory, oracle, state

_IDLE_SECONDS = 0.1
_ORACLE = ("hyperparameters", "tune_new_entries", "allow_new_entries", "max_retries_per_trial")
_ORACLE_BAYESIAN = (*_ORACLE, "num_initial_points", "alpha", "beta")


class Repaired(keras_tuner.Tuner):
    """What every tuner here does better; stands before the class of Keras Tuner that it repairs."""

    def _start(
        self, kind: Callable[..., Any], hypermodel: Any, objective: Any, settings: dict[str, Any], **kwargs: Any
    ) -> None:
        """Check, make the oracle of class `kind`, and open or go on with the project."""
        self._opened = False
        if "max_consecutive_failed_trials" in kwargs:
            raise refuse("max_consecutive_failed_trials", kwargs["max_consecutive_failed_trials"], "max_failures=")
        if hypermodel is None and type(self).run_trial is Repaired.run_trial:
            raise refuse(
                "hypermodel", None, "a function hp -> model, a keras_tuner.HyperModel, or an own run_trial"
            )
        seed = positive_int("seed", kwargs.pop("seed"), minimum=0)
        failures = positive_int("max_failures", kwargs.pop("max_failures"))
        keep = positive_int("keep", kwargs.pop("keep"))
        say = _progress.to_stderr if kwargs.pop("progress") else _progress.silent
        self._board = _tensorboard(kwargs.pop("tensorboard"))
        if objective is None:
            objective = getattr(hypermodel, "objective", None)
        names = _ORACLE_BAYESIAN if kind is oracle.BayesianOptimizationOracle else _ORACLE
        own = {name: kwargs.pop(name) for name in names if name in kwargs}
        brain = kind(oracle.known_objective(objective), seed=seed, **own, **settings)
        brain.repair(seed, failures, keep, say)
        worker = processes.has_chief_oracle() and not processes.is_chief_oracle()
        if worker:
            kwargs["overwrite"] = False  # only the chief, or the only process, deletes a project
        else:
            _files.writable_folder("directory", kwargs["directory"])
        self.seed, self._written, self._attempt = seed, state.Written(), 0
        keras_tuner.Tuner.__init__(self, brain, hypermodel, **kwargs)
        self._opened = True
        if worker:
            return
        if not processes.is_chief_oracle():
            brain.remove_unfinished()
        settings = {name: value for name, value in settings.items() if name != "max_trials"}  # may grow
        shown = {"oracle": kind.__name__, "objective": str(brain.objective), "seed": seed, **settings}
        self._manifest = state.manifest(self, shown)
        state.compare_manifest(self.project_dir, self._manifest)
        if Path(self._get_tuner_fname()).exists():
            self.reload()

    def _get_tuner_fname(self) -> str:
        name = super()._get_tuner_fname()
        return name if self._opened else name + ".none"  # so that the space is built also where a project goes on

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        if not self._is_worker():
            data = {"data": state.data_identity(fit_args, fit_kwargs)}
            state.compare_manifest(self.project_dir, {**self._manifest, **data})
            self.save()
        if processes.is_chief_oracle():
            importlib.import_module("keras_aeprune.search.workers").hand_out(self.oracle)
        else:
            self.on_search_begin()
            with memory.frozen(), _progress.no_retracing_lines():
                while self._next(fit_args, fit_kwargs):
                    pass
            self.on_search_end()
        if not self._is_worker():
            self.oracle._display.finish()
            if self.oracle.failure():
                raise RuntimeError(f"the search has no result: {self.oracle.failure()}")

    def _next(self, fit_args: Any, fit_kwargs: Any) -> bool:
        """One trial; False where there are no more."""
        self.pre_create_trial()
        trial = self.oracle.create_trial(self.tuner_id)
        if trial.status == TrialStatus.IDLE:
            time.sleep(_IDLE_SECONDS)
        elif trial.status != TrialStatus.STOPPED:
            with memory.forgotten_gradients():
                self._attempt = 0 if self._is_worker() else self.oracle.attempts(trial.trial_id)
                self._seed(trial)
                self.on_trial_begin(trial)
                self._try_run_and_update_trial(trial, *fit_args, **fit_kwargs)
                self.on_trial_end(trial)
        return trial.status != TrialStatus.STOPPED

    def _seed(self, trial: Any, execution: int = 0) -> None:
        """The same values, begun at the same epoch, get the same random numbers; another run of them others."""
        values = display.own_values(trial)
        begin = trial.hyperparameters.values.get("tuner/initial_epoch", 0)
        keras.utils.set_random_seed(state.hashed_seed(self.seed, values, begin, execution, self._attempt))

    def _try_run_and_update_trial(self, trial: Any, *fit_args: Any, **fit_kwargs: Any) -> None:
        try:
            self._run_and_update_trial(trial, *fit_args, **fit_kwargs)
            trial.status = TrialStatus.COMPLETED
        except (WrongKerasError, keras_tuner.errors.FatalError):
            raise
        except Exception as error:
            wanted = isinstance(error, keras_tuner.errors.FailedTrialError)
            trial.status = TrialStatus.FAILED if wanted else TrialStatus.INVALID
            trial.message = traceback.format_exc()

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> list[Any]:
        values = trial.hyperparameters.values
        if "tuner/epochs" in values:
            kwargs |= {"epochs": values["tuner/epochs"], "initial_epoch": values["tuner/initial_epoch"]}
        given = kwargs.pop("callbacks", None) or []
        if _hands_on(self.hypermodel):
            kwargs.setdefault("verbose", 0)
        path = self._get_checkpoint_fname(trial.trial_id)
        saver = checkpoints.SaveBestWeights(self.oracle.objective, path)
        results = []
        for execution in range(self.executions_per_trial):
            if execution:
                self._seed(trial, execution)
            callbacks = self._deepcopy_callbacks(list(given))
            self._configure_tensorboard_dir(callbacks, trial, execution)
            callbacks += [tuner_utils.TunerCallback(self, trial), saver]
            results.append(self._build_and_fit_model(trial, *args, **{**kwargs, "callbacks": callbacks}))
        saver.write()
        return results

    def _build_and_fit_model(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        model = self._try_build(trial.hyperparameters)
        results = self.hypermodel.fit(trial.hyperparameters, model, *args, **kwargs)
        _files.write_json(self._get_build_config_fname(trial.trial_id), model.get_build_config())
        tuner_utils.validate_trial_results(results, self.oracle.objective, "HyperModel.fit()")
        return results

    def _try_build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        keras.backend.clear_session()  # which collects garbage: once is enough
        model = keras_model(self._build_hypermodel(hp), "the model that the hypermodel built")
        size = sum(variable.shape.num_elements() for variable in model.trainable_weights) if model.built else 0
        if self.max_model_size and size > self.max_model_size:
            raise keras_tuner.errors.FailedTrialError(f"the model has {size} weights, more than max_model_size")
        return model

    def _build_hypermodel(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        model = keras_tuner.Tuner._build_hypermodel(self, hp)
        parent = hp.values.get("tuner/trial_id")
        if parent is not None:
            self._restore(model, parent)
        return model

    def _restore(self, model: keras.Model, trial_id: str) -> None:
        path = Path(self._get_checkpoint_fname(trial_id))
        if not path.exists():
            raise InputError(
                f"trial {trial_id}: its weights were not saved, or deleted as beaten, allowed: one of the best "
                f"trials; more of them are kept with keep="
            )
        keras_model(model, "the model that the hypermodel built")
        with keras_tuner.engine.tuner.maybe_distribute(self.distribution_strategy):
            if not model.built:
                text = Path(self._get_build_config_fname(trial_id)).read_text(encoding="utf-8")
                model.build_from_config(json.loads(text))
            checkpoints.load_weights(model, path)

    def load_model(self, trial: Any) -> keras.Model:
        values = trial.hyperparameters.copy()
        values.values.pop("tuner/trial_id", None)  # its own weights, not its parent's
        model = keras_model(self._build_hypermodel(values), "the model that the hypermodel built")
        self._restore(model, trial.trial_id)
        return model

    def get_best_trials(self, num_trials: int = 1) -> list[Any]:
        """The best trials that were trained to the end with a finite score, best first; at most `num_trials`."""
        return self.oracle.get_best_trials(positive_int("num_trials", num_trials))

    def get_best_models(self, num_models: int = 1) -> list[keras.Model]:
        return [self.load_model(trial) for trial in self.get_best_trials(num_models)]

    def get_best_hyperparameters(self, num_trials: int = 1) -> list[keras_tuner.HyperParameters]:
        return [trial.hyperparameters for trial in self.get_best_trials(num_trials)]

    def table(self) -> display.SearchTable:
        """Every trial: values, rung, epochs, score, metrics, seconds, status, error; prints as a table."""
        if self._is_worker():
            raise InputError("table: this process is a worker, allowed: the chief, which knows all the trials")
        return display.table(self.oracle)

    def on_trial_end(self, trial: Any) -> None:
        self.oracle.end_trial(trial)  # which saves
        self._written.write(self._get_tuner_fname(), self.get_state())

    def save(self) -> None:
        if not self._is_worker():
            self.oracle.save()
        self._written.write(self._get_tuner_fname(), self.get_state())

    def _configure_tensorboard_dir(self, callbacks: list[Any], trial: Any, execution: int = 0) -> None:
        folder, known = self._board or (None, None)
        boards = [callback for callback in callbacks if type(callback).__name__ == "TensorBoard"]
        if folder and not boards:
            boards = [keras.callbacks.TensorBoard(folder, write_graph=False)]
            callbacks += boards
        for board in boards:
            board.log_dir = self._get_tensorboard_dir(folder or board.log_dir, trial.trial_id, execution)
            if folder and known is not None:
                values = tuner_utils.convert_hyperparams_to_hparams(trial.hyperparameters, known)
                callbacks.append(known.KerasCallback(board.log_dir, values, trial_id=trial.trial_id))


def _hands_on(hypermodel: Any) -> bool:
    """Whether `verbose` gets to `model.fit`: a fit of the user's own may not take it, or set it itself."""
    fit, inner = type(hypermodel).fit, getattr(hypermodel, "inner", None)
    known = fit is keras_tuner.HyperModel.fit or fit.__module__.startswith("keras_aeprune.")
    return known and (not isinstance(inner, keras_tuner.HyperModel) or _hands_on(inner))


def _tensorboard(folder: str | Path | None) -> tuple[str, Any] | None:
    if folder is None:
        return None
    try:
        return os.fspath(folder), importlib.import_module("tensorboard.plugins.hparams.api")
    except ImportError:
        message = "tensorboard: the package tensorboard is not installed; pip install keras-aeprune[tensorboard]"
        raise InputError(message) from None


class Hyperband(Repaired, keras_tuner.Hyperband):
    """Hyperband that runs to its end, goes on after a kill, and answers only with what was trained to the end.

    Use it wherever `keras_tuner.Hyperband` is used, with any `build_model(hp)` or `HyperModel`. Many
    configurations are trained for a few epochs, the best of them for `factor` times as many, and so on up to
    `max_epochs`; see `hyperband_plan` for the cost. Li et al. 2018, https://jmlr.org/papers/v18/16-558.html.

    Otherwise than there: a small space is searched to the end; failed and diverged trials take no place from
    others; a trial repeated under the same seed gives the same weights; state files are whole after any kill; a
    project of another search or other data is refused; weights of beaten trials are deleted.

    Args:
        hypermodel: function hp -> compiled model, or a `keras_tuner.HyperModel`.
        objective: "val_loss" or another loss or accuracy; any other name as (name, "min" or "max") or
            `keras_tuner.Objective`. None takes the hypermodel's own.
        max_epochs: of the longest trials, 1 or more.
        factor: epochs grow, and trials shrink, by this from rung to rung, 2 or more.
        hyperband_iterations: of the whole algorithm, 1 or more.
        seed: of values and trainings, 0 or more; neighbouring seeds share no random numbers.
        directory: of projects.
        project_name: folder in it.
        overwrite: delete what the project holds. A worker ignores it.
        max_failures: the search ends with an error when the first trials, this many, all failed; 1 or more.
        keep: best trials whose weights are kept, 1 or more.
        progress: show a line on standard error.
        tensorboard: folder for TensorBoard's logs with hyperparameters, or None.
        **kwargs: other arguments of `keras_tuner.Hyperband`, such as max_retries_per_trial, executions_per_trial
            or distribution_strategy.

    Raises:
        InputError: for arguments that cannot be used, or a project of another search.

    Example:
        >>> import tempfile
        >>> class Parabola(Hyperband):
        ...     def run_trial(self, trial):
        ...         return (trial.hyperparameters.Int("width", 0, 9) - 6) ** 2
        >>> tuner = Parabola(directory=tempfile.mkdtemp(), max_epochs=9, progress=False)
        >>> tuner.search()
        >>> tuner.get_best_hyperparameters()[0].get("width")
        6
    """

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = None,
        *,
        max_epochs: int = 100,
        factor: int = 3,
        hyperband_iterations: int = 1,
        seed: int = 0,
        directory: str | Path,
        project_name: str = "search",
        overwrite: bool = False,
        max_failures: int = 10,
        keep: int = 3,
        progress: bool = True,
        tensorboard: str | Path | None = None,
        **kwargs: Any,
    ):
        settings = {
            "max_epochs": positive_int("max_epochs", max_epochs),
            "factor": positive_int("factor", factor, minimum=2),
            "hyperband_iterations": positive_int("hyperband_iterations", hyperband_iterations),
        }
        kwargs |= {"directory": directory, "project_name": project_name, "overwrite": overwrite, "seed": seed}
        kwargs |= {"max_failures": max_failures, "keep": keep, "progress": progress, "tensorboard": tensorboard}
        self._start(brackets.HyperbandOracle, hypermodel, objective, settings, **kwargs)


class RandomSearch(Repaired, keras_tuner.RandomSearch):
    """Random search with the repairs of `search.Hyperband`; ends when a small space is exhausted.

    Use it as a baseline, or where trials cannot be cut short.

    Args:
        hypermodel: function hp -> compiled model, or a `keras_tuner.HyperModel`.
        objective: as for `search.Hyperband`.
        max_trials: 1 or more; a search that is asked again with more goes on.
        **kwargs: `directory`, and other arguments of `search.Hyperband` and `keras_tuner.RandomSearch`.

    Raises:
        InputError: as `search.Hyperband`.

    Example:
        >>> import tempfile
        >>> class Parabola(RandomSearch):
        ...     def run_trial(self, trial):
        ...         return (trial.hyperparameters.Int("width", 0, 9) - 6) ** 2
        >>> tuner = Parabola(directory=tempfile.mkdtemp(), max_trials=20, progress=False)
        >>> tuner.search()
        >>> len(tuner.table().rows)
        10
    """

    _oracle: Callable = oracle.RandomSearchOracle

    def __init__(self, hypermodel: Any = None, objective: Any = None, *, max_trials: int = 10, **kwargs: Any):
        if "directory" not in kwargs:
            raise refuse("directory", None, "the folder of projects, directory=")
        usual = {"seed": 0, "project_name": "search", "max_failures": 10, "keep": 3, "progress": True}
        settings = {"max_trials": positive_int("max_trials", max_trials)}
        self._start(self._oracle, hypermodel, objective, settings, **{**usual, "tensorboard": None, **kwargs})


class BayesianOptimization(RandomSearch, keras_tuner.BayesianOptimization):
    """Bayesian optimization with a Gaussian process, and the repairs of `search.Hyperband`.

    Use it where a trial is dear and trials are few. Values are never tried twice, a diverged trial counts as the
    worst finite one, and the process that proposes values draws from hashed seeds.

    Args:
        hypermodel: function hp -> compiled model, or a `keras_tuner.HyperModel`.
        objective: as for `search.Hyperband`.
        max_trials: 1 or more; a search that is asked again with more goes on.
        **kwargs: `directory`, and other arguments of `search.Hyperband` and `keras_tuner.BayesianOptimization`.

    Raises:
        InputError: as `search.Hyperband`.

    Example:
        >>> import tempfile
        >>> class Parabola(BayesianOptimization):
        ...     def run_trial(self, trial):
        ...         return (trial.hyperparameters.Int("width", 0, 9) - 6) ** 2
        >>> tuner = Parabola(directory=tempfile.mkdtemp(), max_trials=4, progress=False)
        >>> tuner.search()
        >>> len(tuner.table().rows)
        4
    """

    _oracle = oracle.BayesianOptimizationOracle
