"""The retraining of one width: the model that is kept is that of the best finite seed."""

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest

from keras_aeprune.search import width_trainers
from keras_aeprune.search.width_trainers import Tuned


@dataclass(frozen=True)
class FakeTask:
    seed: int = 0


class Hypermodel:
    """A model of one number, which is the seed that it was trained with."""

    def task(self, x: Any, validation: Any, **settings: Any) -> FakeTask:
        return FakeTask()

    def model(self, values: dict[str, Any]) -> keras.Model:
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, name="only")])


@pytest.mark.parametrize(
    ("losses", "kept"), [([3.0, 1.0, 2.0], 1), ([math.nan, 2.0, 3.0], 1), ([2.0, math.nan, math.inf], 0)]
)
def test_the_best_finite_seed_is_kept(monkeypatch, losses, kept):
    def evaluate(task, config, rung, *, save_to):
        model = Hypermodel().model(config)
        model.set_weights([np.full((1, 1), float(task.seed))])
        width_trainers.checkpoints.save_weights(model, save_to)
        return {"val_mse": losses[task.seed]}

    monkeypatch.setattr(width_trainers, "evaluate", evaluate)
    monkeypatch.setattr(width_trainers, "_mse", lambda metrics: metrics["val_mse"])
    data = type("Data", (), {"x": None, "validation": None})()
    found, model = Tuned(data, Hypermodel(), {"batch_size": 8}).train(4, range(3), 1, lambda *said: None)
    assert np.array_equal(found, losses, equal_nan=True)
    assert float(model.get_weights()[0][0, 0]) == kept
