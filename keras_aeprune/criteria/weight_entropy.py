"""Weights whose removal leaves the most varied weights behind."""

from __future__ import annotations

import numpy as np

from keras_aeprune._layers import Weight
from keras_aeprune._validation import positive_int, refuse
from keras_aeprune.criteria.base import Criterion, Evidence, register

__all__ = ["WeightEntropy"]

_MOST_BINS = 4096


@register("weight_entropy")
class WeightEntropy(Criterion):
    """Keeps the entropy of a kernel's weights highest: weights in over-full bins go first.

    Use it where a kernel's few distinct, far-out weights matter, or before clustering and entropy coding are
    compared; near 0 bins are fullest, so it mostly agrees with magnitude there, and differs in kernels whose
    weights pile up elsewhere. The N weights of a kernel that are not zero are put into equal bins between the
    smallest and the largest; n[b] of them are in bin b, and

        p[b] = n[b] / N,      H(W) = -sum over b of p[b] log p[b] = (1 / N) * sum over weights of -log p[bin]

    so each weight adds its share -log(p) / N. What is to be large is H of the weights that remain. Since
    N H = N log N - sum n log n, one weight less in bin b changes sum n log n by about -(log n[b] + 1): at every
    step taking from the fullest bin leaves the largest H. (n log n is convex, so levelling the fullest bins down
    is the best choice for any number of weights kept, not only step by step.) A weight's turn comes when r
    weights of its bin are left, where r counts those with |w| at least its own, itself included:

        score = -log(r / N)      in nats

    The lowest scores are those of the fullest bins' smallest weights. So masks of every sparsity keep the
    largest H(W) there is for their number of weights and these bins. Between bins at the same level the smaller
    |w| goes first (r is lowered by less than 1/2, in proportion to |w|). Zeros score 0, below all others.

    The score of a unit (`measure_units`) is its weights' mean of -log p[bin], with p as above and not r; their
    mean, weighted by how many weights each unit has, is then H(W) of the kernel.

    Args:
        bins: number of bins, >= 2, or "fd" for the width of Freedman and Diaconis, 2 IQR / N^(1/3)
            (https://doi.org/10.1007/BF01025868), at most 4096 bins.

    Raises:
        InputError: for other bins.

    Example:
        >>> kernel = np.array([[0.1, -0.1, 0.0], [0.2, 1.0, -1.0]], "float32")
        >>> scores = WeightEntropy(bins=2).scores(kernel, "dense/kernel")  # [-1, 0) and [0, 1]
        >>> scores.argsort(axis=None).tolist()  # 0, then 0.1 of three, 0.2 and -0.1 of two, then the last ones
        [2, 0, 1, 3, 4, 5]
    """

    def __init__(self, bins: int | str = 64):
        if isinstance(bins, str):
            if bins != "fd":
                raise refuse("bins", bins, "a whole number >= 2, or 'fd'")
            self.bins: int | str = bins
        else:
            self.bins = positive_int("bins", bins, minimum=2)

    def scores(self, kernel: np.ndarray, path: str) -> np.ndarray:
        found = np.zeros(kernel.shape, np.float32)
        some = kernel != 0
        w = kernel[some].astype(np.float64)
        if not w.size:
            return found
        place, size = self._places(w), np.abs(w)
        order = np.lexsort((-size, place))  # bin by bin, the largest first
        counts = np.bincount(place)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        rank = np.empty(w.size)
        rank[order] = np.arange(w.size) - np.repeat(starts, counts) + 1
        found[some] = -np.log((rank - 0.4999 * size / size.max()) / w.size)
        return found

    def measure_units(self, seen: Evidence) -> dict[str, np.ndarray]:
        """Mean of -log p over each unit's weights, all kernels and gates of a layer together.

        Args:
            seen: the model and its kernels; no data is needed.

        Returns:
            {path of a layer: float32 array of one number per unit, in nats}, 0 for a unit of zeros only; layers
            whose kernels have no known unit axis are not in it.
        """
        sums: dict[str, np.ndarray] = {}
        for kernel, weight in zip(seen.kernels, seen.weights, strict=True):
            if weight.facts.unit_axis is None:
                continue
            some = kernel != 0
            surprise = np.zeros(kernel.shape)
            if some.any():
                place = self._places(kernel[some].astype(np.float64))
                surprise[some] = -np.log(np.bincount(place)[place] / place.size)
            both = np.stack([_per_unit(surprise, weight), _per_unit(some.astype(float), weight)])
            before = sums.get(weight.layer_path)
            fits = before is not None and before.shape == both.shape
            sums[weight.layer_path] = before + both if fits else both
        return {path: (s[0] / np.maximum(s[1], 1)).astype(np.float32) for path, s in sums.items()}

    def _places(self, w: np.ndarray) -> np.ndarray:
        """The bin of each weight."""
        low, high = float(w.min()), float(w.max())
        if low == high:
            return np.zeros(w.size, int)
        bins = self.bins
        if isinstance(bins, str):  # "fd"
            q75, q25 = np.percentile(w, [75, 25])
            width = 2 * (q75 - q25) / w.size ** (1 / 3)
            bins = int(np.clip(np.ceil((high - low) / width), 1, _MOST_BINS)) if width > 0 else 1
        return np.minimum(((w - low) / (high - low) * bins).astype(int), bins - 1)


def _per_unit(values: np.ndarray, weight: Weight) -> np.ndarray:
    """Sums over a unit's weights; the gates of a recurrent kernel lie side by side, units of them each."""
    axis = weight.facts.axis
    line = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]).sum(axis=0)
    recurrent = getattr(weight.layer, "recurrent_kernel", None)  # its first axis but for windows: the states
    units = line.size if recurrent is None else int(recurrent.shape[weight.facts.input_axis])
    return line.reshape(-1, units).sum(axis=0)
