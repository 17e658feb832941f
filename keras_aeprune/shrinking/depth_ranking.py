"""Which activation, block or layer a model can do without best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_aeprune import calibration
from keras_aeprune._layers import weights
from keras_aeprune._progress import Say, no_retracing_lines, silent
from keras_aeprune._validation import InputError, keras_model, one_of, refuse, shown
from keras_aeprune.calibration import Calibration
from keras_aeprune.criteria.base import Evidence
from keras_aeprune.criteria.base import get as criterion
from keras_aeprune.criteria.entropy import layer_entropies, mean_of_changing, state_entropies
from keras_aeprune.criteria.losses import forward, per_example
from keras_aeprune.criteria.scoring import evidence
from keras_aeprune.shrinking.candidates import Candidate, Depth

__all__ = ["LayerRank", "LayerRanks", "rank_layers"]

_BATCH = 256


@dataclass(frozen=True)
class LayerRank:
    """One thing that could be taken out, and what that costs.

    Args:
        path: as in `LayerCut`.
        kind: "activation", "block" or "layer".
        score: rise of the error, or entropy in bits; low goes first. None where it has no meaning.
        saves_params: weights that go with it.
        reason: why there is no score; "" where there is one.

    Example:
        >>> LayerRank("encoder/hidden_2", "activation", score=0.004, saves_params=2080).reason
        ''
    """

    path: str
    kind: str
    score: float | None
    saves_params: int
    reason: str = ""


class LayerRanks(list):
    """`LayerRank`s, those that go first at the front; prints as a table.

    Args:
        rows: of it.
        measure: what the score is, for the table.
    """

    def __init__(self, rows: Any = (), measure: str = "score"):
        super().__init__(rows)
        self.measure = measure

    def __str__(self) -> str:
        lines = [("path", "kind", "saves weights", self.measure)]
        for row in self:
            score = "-" if row.score is None else f"{row.score:.4g}"
            lines.append((row.path, row.kind, f"{row.saves_params:,}", score))
        wide = [max(len(line[column]) for line in lines) for column in range(4)]
        text = [f"{a:<{wide[0]}}  {b:<{wide[1]}}  {c:>{wide[2]}}  {d:>{wide[3]}}" for a, b, c, d in lines]
        told = [f"{row.path} ({row.kind}): no score, {row.reason}" for row in self if row.reason]
        return "\n".join([text[0], "-" * len(text[0]), *text[1:], *told])


def rank_layers(
    model: keras.Model,
    data: Any,
    *,
    by: str = "error",
    loss: Any = None,
    samples: int | None = None,
    seed: int = 0,
    progress: Say = silent,
) -> LayerRanks:
    """What a model can do without, the cheapest first.

    Use it to choose what `without` takes, one at a time with training between: what is measured here is one cut in
    the model as it is, and cuts add up.

    - "error": the model is run without each in turn, and the score is the rise of the loss; without one, or with
      loss="difference", the mean squared difference between the outputs with and without it. Needs one pass over
      the data for each, and works for all kinds.
    - "entropy": of the ON/OFF states z > 0 of the activation's units in bits, mean over units that are neither
      always ON nor always OFF (Liao et al. "EGP", 2023, https://arxiv.org/abs/2308.06619). Low means that the
      activation is almost linear, on what it does not shut off.
    - "easier": the same of z >= 0, mean over all units, then over batches (Quetu et al. "EASIER", 2024,
      https://arxiv.org/abs/2404.18949).

    Entropies need one pass over the data in all; they have a meaning for activations with an OFF side (ReLU and
    its kin) behind a layer with a kernel.

    Args:
        model: a built Keras model. It is not changed.
        data: what `calibration.get` takes: x for an autoencoder, (x, y) otherwise; with "difference", and for
            entropies, x alone is enough for all.
        by: "error", "entropy" or "easier".
        loss: for "error": a Keras loss; None takes the compiled one, or "difference" where there is none.
        samples: at most how many samples are drawn, >= 1; None takes all.
        seed: of the draw, >= 0.
        progress: called with a line of text and whether it is the last one.

    Returns:
        A list of `LayerRank`, one for each of `removable` that can go, ascending by score; those without a score
        come last, with the reason. `print` shows it as a table.

    Raises:
        InputError: data that does not fit the model, targets that are missing, an unknown `by`, `loss` without
            "error", a model in which nothing can go, a loss that is not finite.

    Example:
        >>> hidden = [keras.layers.Dense(1, "relu", name=name) for name in ("a", "b")]
        >>> model = keras.Sequential([keras.Input((1,)), *hidden, keras.layers.Dense(1, name="c")])
        >>> values = [[[1.0]], [0.0], [[1.0]], [-1.0], [[1.0]], [0.0]]  # relu(relu(x) - 1)
        >>> model.set_weights([np.array(value) for value in values])
        >>> found = rank_layers(model, np.array([[1.0], [2.0], [-1.0]], "float32"))
        >>> [(row.path, row.kind, round(row.score, 4)) for row in found[:2]]  # "b" shuts off what "a" does
        [('a', 'activation', 0.0), ('a', 'layer', 0.0)]
        >>> [(row.path, row.kind, round(row.score, 4)) for row in found[2:]]
        [('b', 'activation', 0.3333), ('b', 'layer', 0.6667)]
    """
    one_of("by", by, ("error", "entropy", "easier"))
    if loss is not None and by != "error":
        raise InputError(f"loss: got {shown(loss)} with by={by!r}, allowed: None; only by='error' takes a loss")
    depth = Depth(keras_model(model))
    able = [candidate for candidate in depth.candidates if not candidate.cut.reason]
    if not able:
        raise InputError(
            f"model {model.name!r}: nothing in its depth can go, allowed: a model for which removable(model) has "
            "an entry without a reason"
        )
    found = calibration.get(data, samples=samples, seed=seed)
    if by == "error":
        with no_retracing_lines():
            measure, measured = _errors(depth, able, found, loss, progress)
    else:
        measure, measured = f"{by} (bits)", _entropies(depth, able, found, by)
    rows = [
        LayerRank(c.cut.path, c.cut.kind, score, c.cut.saves_params, reason)
        for c, (score, reason) in zip(able, measured, strict=True)
    ]
    return LayerRanks(sorted(rows, key=lambda row: np.inf if row.score is None else row.score), measure)


Scores = list[tuple[float | None, str]]


def _errors(depth: Depth, able: list[Candidate], data: Calibration, loss: Any, say: Say) -> tuple[str, Scores]:
    """What is measured, and the rise of the error without each candidate."""
    model = depth.model
    compiled = getattr(model, "_compile_loss", None) if model.compiled else None
    if loss is None and (compiled is None or compiled._user_loss is None):
        loss = "difference"
    if isinstance(loss, str) and loss == "difference":
        name, mean = "difference", _difference(model, data)
        before = 0.0
    else:
        name, mean = "rise of the loss", _loss(model, data, loss)
        before = _finite(mean(model), "the model as it is")
    scores: Scores = []
    for number, candidate in enumerate(able, 1):
        error = mean(depth.without([candidate], merge=False))
        scores.append((_finite(error, f"the model without {candidate.cut.path}") - before, ""))
        say(f"layers: {number}/{len(able)}  {candidate.cut.path}", number == len(able))
    return name, scores


def _difference(model: keras.Model, data: Calibration) -> Callable[[keras.Model], float]:
    wanted = [_outputs(model, x) for x, _ in data.batches(_BATCH)]

    def mean(other: keras.Model) -> float:
        total = count = 0.0
        for (x, _), before in zip(data.batches(_BATCH), wanted, strict=True):
            for one, two in zip(before, _outputs(other, x), strict=True):
                total += float(np.square(one - two).sum())
                count += one.size
        return total / count

    return mean


def _outputs(model: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    outputs = keras.tree.flatten(forward(model, x))
    return [keras.ops.convert_to_numpy(tensor).astype(np.float64) for tensor in outputs]


def _loss(model: keras.Model, data: Calibration, loss: Any) -> Callable[[keras.Model], float]:
    if data.y is None and model.output_shape != (None, *data.x.shape[1:]):
        raise refuse(
            "data",
            f"x alone of shape {data.x.shape}",
            f"(x, y) for outputs of shape {shown(model.output_shape)}, or loss='difference'",
        )
    # what comes with an autoencoder's samples may be labels, which are no targets; as criteria see it
    data = evidence(criterion("fisher"), model, (), data, loss).samples
    losses = per_example(model, loss)

    def mean(other: keras.Model) -> float:
        return sum(float(np.sum(losses(y, forward(other, x)))) for x, y in data.batches(_BATCH)) / len(data)

    return mean


def _finite(value: float, what: str) -> float:
    if not np.isfinite(value):
        raise InputError(f"loss: got {value} for {what}, allowed: a finite number")
    return value


def _entropies(depth: Depth, able: list[Candidate], data: Calibration, by: str) -> Scores:
    """The entropy of each activation's states; for what has none, why."""
    behind = {id(c): depth.kernel_before(c.step) for c in able if c.cut.kind == "activation"}
    wanted = set(behind.values()) - {None}
    kernels = {w.layer_path: w for w in weights(depth.model) if w.kernel is not None and w.layer_path in wanted}
    chosen = tuple(kernels.values())
    states = state_entropies(Evidence(depth.model, chosen, data)) if chosen else []
    reasons = {w.layer_path: reason for w, (_, reason) in zip(chosen, states, strict=True)}
    good = [w for w in chosen if not reasons[w.layer_path]]
    found: dict[str, float] = {}
    if by == "entropy":
        values = {w.layer_path: h for w, (h, _) in zip(chosen, states, strict=True)}
        found = {w.layer_path: mean_of_changing(values[w.layer_path]) for w in good}
    elif good:
        rows = layer_entropies(depth.model, data, form="easier", layers=[w.path for w in good])
        found = {row.path: row.entropy for row in rows}
    scores: Scores = []
    for candidate in able:
        path = behind.get(id(candidate))
        if candidate.cut.kind != "activation":
            scores.append((None, "entropy is measured of activations"))
        elif path is None or path not in kernels:
            scores.append((None, "it does not stand behind one layer with a kernel"))
        else:
            scores.append((found.get(path), reasons[path]))
    return scores
