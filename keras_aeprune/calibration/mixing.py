"""Real and generated samples together."""

from __future__ import annotations

import numpy as np

from keras_aeprune._validation import InputError, fraction, positive_int, refuse
from keras_aeprune.calibration.drawing import classes_of, rows
from keras_aeprune.calibration.samples import Calibration

__all__ = ["mixed"]


def mixed(
    real: Calibration, generated: Calibration, fraction_generated: float, *, samples: int, seed: int = 0
) -> Calibration:
    """Real samples with generated ones among them, in a stated proportion.

    Use it where there are too few real samples, or to see how many of them generated ones can replace. With f
    the fraction, round(f * samples) are drawn from `generated` and the rest from `real`, each without
    replacement and balanced by class where there are labels; then all are shuffled.

    Args:
        real: real samples.
        generated: samples of the same shape, from a `Source`.
        fraction_generated: fraction of the samples that are generated, 0 <= f <= 1.
        samples: how many in all, >= 1.
        seed: of the draw and of the order, >= 0.

    Returns:
        A `Calibration` whose source states the proportion that came out, such as "0.75 real + 0.25 vae".

    Raises:
        InputError: there are too few of one kind, shapes differ, or only one of the kinds has labels.

    Example:
        >>> real, generated = Calibration(np.zeros((9, 2))), Calibration(np.ones((9, 2)), source="vae")
        >>> both = mixed(real, generated, 0.25, samples=8)
        >>> both.source, both.x.sum(axis=0).tolist()
        ('0.75 real + 0.25 vae', [2.0, 2.0])
    """
    for name, part in (("real", real), ("generated", generated)):
        if not isinstance(part, Calibration):
            raise refuse(name, type(part).__name__, "a Calibration; calibration.get(data) makes one")
    share = fraction("fraction_generated", fraction_generated, high_open=False)
    samples, seed = positive_int("samples", samples), positive_int("seed", seed, minimum=0)
    made = round(share * samples)
    generator = np.random.default_rng(seed)
    parts = [
        _drawn("real", real, samples - made, samples, generator),
        _drawn("generated", generated, made, samples, generator),
    ]
    used = [part for part in parts if len(part)]
    shapes = [part.x.shape[1:] for part in used]
    if len(set(shapes)) > 1:
        raise refuse("generated", f"samples of shape {shapes[1]}", f"{shapes[0]}, like the real ones")
    targets = [None if part.y is None else part.y.shape[1:] for part in used]
    if len(set(targets)) > 1:
        kinds = ["no labels" if shape is None else f"labels of shape {('n', *shape)}" for shape in targets]
        raise InputError(
            f"generated: got {kinds[1]}, and {kinds[0]} for the real samples, allowed: the same for both; draw "
            "with model= for labels that the classifier predicts, or leave y out of the real samples"
        )
    order = generator.permutation(samples)
    x = np.concatenate([part.x for part in used])[order]
    y = None if used[0].y is None else np.concatenate([part.y for part in used])[order]
    text = " + ".join(f"{len(part) / samples:.3g} {part.source}" for part in used)
    return Calibration(x, y, text if len(used) > 1 else used[0].source)


def _drawn(name: str, part: Calibration, count: int, samples: int, generator: np.random.Generator) -> Calibration:
    if count > len(part):
        raise InputError(
            f"{name}: got {len(part)} samples, allowed: {count} or more, which samples={samples} and "
            "fraction_generated ask for"
        )
    chosen = rows(classes_of(part.y), len(part), count, generator)
    return Calibration(part.x[chosen], None if part.y is None else part.y[chosen], part.source)
