"""Everything that decides the outcome of a run, derived from the data where it was not given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from keras_aeprune import models
from keras_aeprune._validation import InputError, fraction, is_real, positive_int, positive_number, refuse
from keras_aeprune.datasets import Dataset

__all__ = ["Settings"]

_UPDATES = 6000  # optimizer steps of the dense training that are enough for the data sets measured
_FEWEST_EPOCHS, _MOST_EPOCHS = 15, 100
_SMALL = 10_000  # training samples below which small batches pay


@dataclass(frozen=True)
class Settings:
    """The resolved settings of one run.

    Args:
        sparsity: fraction of kernel weights set to zero, 0 <= s < 1.
        encoding_dim: width of the code, numbers per sample.
        hidden_units: widths of the encoder's hidden layers; the decoder mirrors them.
        epochs: passes over the data in each phase: {"dense", "prune", "finetune"}.
        batch_size: samples per optimizer step.
        seed: of the split, the weights and the order of the data.
        output_activation: "sigmoid" for data in [0, 1], else "linear".
        allocation: how the zeros are shared out among the layers.
        max_error_increase: fraction by which the error of the shrunk autoencoder may grow; None makes none.

    Example:
        >>> from keras_aeprune.datasets import load
        >>> settings = Settings.derive(load("digits"), epochs=10)
        >>> settings.encoding_dim, settings.epochs
        (8, {'dense': 10, 'prune': 10, 'finetune': 5})
    """

    sparsity: float
    encoding_dim: int
    hidden_units: tuple[int, ...]
    epochs: dict[str, int]
    batch_size: int
    seed: int
    output_activation: str
    allocation: str
    max_error_increase: float | None = None

    @classmethod
    def derive(
        cls,
        data: Dataset,
        *,
        sparsity: float = 0.9,
        encoding_dim: int | None = None,
        hidden_units: Sequence[int] | None = None,
        epochs: int | None = None,
        max_error_increase: float | None = None,
        seed: int = 0,
    ) -> Settings:
        """Fill in what was not given.

        Args:
            data: the loaded data.
            sparsity: as above.
            encoding_dim: 1 to features - 1; None derives it.
            hidden_units: widths; None derives them.
            epochs: passes of the dense training; pruning takes as many and fine-tuning half as many.
            max_error_increase: fraction >= 0, or None.
            seed: whole number from 0 to 2**32 - 1.

        Raises:
            InputError: for a value outside its range.
        """
        fraction("sparsity", sparsity)
        positive_int("seed", seed, minimum=0, maximum=2**32 - 1)
        if max_error_increase is not None:
            max_error_increase = _increase(max_error_increase)
        width, hidden = models.default_sizes(data.features, encoding_dim)
        if hidden_units is not None:
            hidden = tuple(positive_int("hidden_units", units) for units in hidden_units)
        samples = len(data.x_train)
        batch_size = min(32 if samples < _SMALL else 128, samples)
        if epochs is None:
            epochs = math.ceil(_UPDATES / math.ceil(samples / batch_size))
            epochs = min(max(epochs, _FEWEST_EPOCHS), _MOST_EPOCHS)
        return cls(
            sparsity=float(sparsity),
            encoding_dim=width,
            hidden_units=tuple(hidden),
            epochs=phases(positive_int("epochs", epochs)),
            batch_size=batch_size,
            seed=int(seed),
            output_activation="sigmoid" if data.scaling.output_range == "unit" else "linear",
            allocation="global",
            max_error_increase=max_error_increase,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; without an error limit no word of it."""
        values = {**asdict(self), "hidden_units": list(self.hidden_units)}
        if self.max_error_increase is None:
            del values["max_error_increase"]
        return values


def _increase(value: Any) -> float:
    if not is_real(value) or not 0 <= value < math.inf:
        raise refuse("max_error_increase", value, "a fraction >= 0, such as 0.05")
    return float(value)


def phases(epochs: int) -> dict[str, int]:
    """Epochs of each phase: pruning takes as many as the dense training and fine-tuning half as many.

    >>> phases(15)
    {'dense': 15, 'prune': 15, 'finetune': 8}
    """
    return {"dense": epochs, "prune": epochs, "finetune": math.ceil(epochs / 2)}


def seconds(value: float | str | None) -> float | None:
    """A time limit in seconds from a number, or from text such as "90", "90s", "5m" or "1.5h".

    >>> seconds("5m"), seconds(90), seconds(None)
    (300.0, 90.0, None)
    """
    if value is None:
        return None
    if isinstance(value, str):
        units = {"s": 1, "m": 60, "h": 3600}
        text = value.strip()
        number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
        try:
            value = float(number) * unit
        except ValueError:
            raise InputError(f"max_time: got {value!r}, allowed: seconds, or text like 90s, 5m or 1.5h") from None
    return positive_number("max_time", value, "of seconds")
