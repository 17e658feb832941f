"""Optimal brain surgeon with blocks of the inverse empirical Fisher information."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_aeprune._layers import Weight
from keras_aeprune._validation import InputError, positive_int, positive_number
from keras_aeprune.criteria.base import Criterion, Evidence, register
from keras_aeprune.criteria.per_example import PerExample

__all__ = ["WoodFisher"]

# how many blocks are inverted at once: 64 MiB of float64
_ROOM = 2**23


@register("woodfisher")
class WoodFisher(Criterion):
    """Rise of the loss when a weight goes and the other weights of its block move to make up for it.

    Use it to prune a trained model far in one go, or with little training after it; then let `compensated` move
    the weights that stay. With the gradients g_n of single samples and lambda = damping,

        F = lambda I + 1/N sum_n g_n g_n',    score_q = w_q^2 / (2 [F^-1]_qq)

    F is kept in blocks of `block_size` weights of a kernel, one unit's incoming weights after the other's, since
    it is a unit's inputs that can stand in for each other; the last block of a kernel may be smaller. Singh and
    Alistarh 2020, https://arxiv.org/abs/2004.14340. They build F^-1 by one Woodbury update per sample; here each
    block of F is summed up and inverted in float64, which is the same matrix in fewer, larger products.

    Memory: 8 * block_size bytes per weight, and 8 * block_size more for what is being inverted, at most 64 MiB
    at once; 1000 blocks of 100 take 80 MB. Time grows with samples * weights * block_size.

    Args:
        block_size: weights in a block, >= 1; at 1 the score is that of the damped diagonal Fisher.
        damping: lambda, > 0; keeps F invertible where there are fewer samples than weights in a block.
        batch_size: samples at once, >= 1; changes time and memory, not the scores.

    Example:
        >>> import keras
        >>> from keras_aeprune._layers import weights
        >>> from keras_aeprune.calibration import Calibration
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
        >>> data = Calibration(np.array([[1.0, 0.0], [0.0, 2.0]], "float32"), np.zeros((2, 1), "float32"))
        >>> seen = Evidence(model, tuple(weights(model)), data, "mse")  # gradients (2, 0) and (0, 8)
        >>> WoodFisher(damping=1.0).measure(seen)[0].ravel().tolist()
        [1.5, 16.5]
    """

    needs = "gradients"

    def __init__(self, block_size: int = 100, *, damping: float = 1e-5, batch_size: int = 256):
        self.block_size = positive_int("block_size", block_size)
        self.damping = positive_number("damping", damping)
        self.batch_size = positive_int("batch_size", batch_size)

    def measure(self, seen: Evidence) -> list[np.ndarray]:
        found = []
        for weight, kernel, fisher in zip(seen.weights, seen.kernels, self.blocks(seen), strict=True):
            step = max(1, _ROOM // fisher[0].size)
            parts = [fisher[start : start + step] for start in range(0, len(fisher), step)]
            diagonal = np.concatenate([tf.linalg.diag_part(tf.linalg.inv(part)).numpy() for part in parts])
            if not (np.isfinite(diagonal).all() and (diagonal > 0).all()):
                raise InputError(f"damping: got {self.damping}, too little to invert the blocks, allowed: more")
            scores = _cut(kernel, weight, fisher.shape[-1]) ** 2 / (2 * diagonal)
            found.append(_joined(scores, weight))
        return found

    def compensated(self, seen: Evidence, masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Kernels with the masked weights at zero and the others moved so that the loss rises least.

        In each block, with K what is kept and Q what is removed, the others move by F_KK^-1 F_KQ w_Q: the optimum
        for all weights in Q together (one weight alone: -w_q / [F^-1]_qq * F^-1 e_q). The model is not changed;
        assign the kernels to it. In several rounds of a little more sparsity each, F is measured anew.

        Args:
            seen: as for `measure`; kernels that are not in it stay as they are.
            masks: boolean arrays of the kernels' shapes, True where a weight is kept.

        Returns:
            float32 arrays of the kernels' shapes.

        Raises:
            InputError: masks of other shapes or another number of them.
        """
        shapes = [kernel.shape for kernel in seen.kernels]
        if [np.shape(mask) for mask in masks] != shapes:
            raise InputError(f"masks: got shapes {[np.shape(mask) for mask in masks]}, allowed: {shapes}")
        found = []
        for weight, kernel, mask, fisher in zip(seen.weights, seen.kernels, masks, self.blocks(seen), strict=True):
            size = fisher.shape[-1]
            w, kept = _cut(kernel, weight, size), _cut(mask, weight, size) > 0
            removed = np.where(kept, 0.0, w)
            pull = np.where(kept, np.matmul(fisher, removed[..., None])[..., 0], 0.0)
            both = kept[:, :, None] & kept[:, None, :]
            moved = np.zeros_like(w)
            touched = np.flatnonzero(pull.any(axis=1))
            step = max(1, _ROOM // size**2)
            for start in range(0, len(touched), step):
                part = touched[start : start + step]
                system = np.where(both[part], fisher[part], np.eye(size))
                moved[part] = tf.linalg.solve(system, pull[part][..., None]).numpy()[..., 0]
            found.append(_joined(np.where(kept, w + moved, 0.0), weight))
        return found

    def blocks(self, seen: Evidence) -> list[np.ndarray]:
        """The damped Fisher information per kernel, float64 arrays (blocks, size, size).

        A kernel of fewer weights than a block is one block of its own size; what is missing in a kernel's last
        block is filled up with the damping alone.
        """
        sizes = [min(self.block_size, max(kernel.size, 1)) for kernel in seen.kernels]
        sums = [
            np.zeros((-(-kernel.size // size), size, size))
            for kernel, size in zip(seen.kernels, sizes, strict=True)
        ]
        gradients = PerExample(seen, batch_size=self.batch_size)
        for index, part in gradients.gradients():
            cut = tf.constant(_cut(part, seen.weights[index], sizes[index]).transpose(1, 0, 2))
            sums[index] += tf.matmul(cut, cut, transpose_a=True).numpy()
        for weight, total in zip(seen.weights, sums, strict=True):
            total /= gradients.count
            total += self.damping * np.eye(total.shape[-1])
            if not np.isfinite(total).all():
                raise InputError(
                    f"{weight.path}: got gradients that are not finite, allowed: a trained, finite model"
                )
        return sums


def _cut(array: np.ndarray, weight: Weight, size: int) -> np.ndarray:
    """(..., blocks, size) of a kernel, or of several: unit after unit, the end filled up with zeros, float64."""
    shape, axis = tuple(weight.variable.shape), weight.facts.unit_axis
    first = np.shape(array)[: np.ndim(array) - len(shape)]
    if axis is not None:
        array = np.moveaxis(array, axis, len(first))
    flat = np.reshape(array, (*first, -1)).astype(np.float64)
    flat = np.pad(flat, [(0, 0)] * len(first) + [(0, -flat.shape[-1] % size)])
    return flat.reshape(*first, -1, size)


def _joined(blocks: np.ndarray, weight: Weight) -> np.ndarray:
    """A kernel from what `_cut` made of it."""
    shape, axis = tuple(weight.variable.shape), weight.facts.unit_axis
    flat = blocks.ravel()[: int(np.prod(shape))].astype(np.float32)
    if axis is None:
        return flat.reshape(shape)
    units = shape[axis]
    rest = [length for at, length in enumerate(shape) if at != axis % len(shape)]
    return np.ascontiguousarray(np.moveaxis(flat.reshape(units, *rest), 0, axis))
