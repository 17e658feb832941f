"""Many numbers by few: clusters of a kernel's weights, and what sharing them saves."""

from __future__ import annotations

import math

import numpy as np

from keras_aeprune._validation import InputError, one_of, positive_int

__all__ = ["kmeans", "sharing_rate"]


def sharing_rate(weights: int, clusters: int, bits: int = 32) -> float:
    """How many times smaller a kernel with shared values is, indices of zeros not counted.

    With n weights of b bits and k shared values: r = n b / (n log2(k) + k b).
    Han et al. 2016, equation 1, https://arxiv.org/abs/1510.00149.

    Args:
        weights: n, >= 1.
        clusters: k, >= 1.
        bits: b, of one value, >= 1.

    Returns:
        The rate, > 0; below 1 where the codebook is larger than the kernel.

    Raises:
        InputError: for other numbers.

    Example:
        >>> sharing_rate(16, 4)
        3.2
    """
    n, k, b = positive_int("weights", weights), positive_int("clusters", clusters), positive_int("bits", bits)
    return n * b / (n * math.log2(k) + k * b)


def kmeans(
    values: np.ndarray, clusters: int, *, init: str = "linear", iterations: int = 300
) -> tuple[np.ndarray, np.ndarray]:
    """The few values that stand best for many numbers: Lloyd's algorithm in one dimension, zeros left out.

    Use it to share the weights of a kernel without training; `cluster` and `Cluster` train the values on. It
    lowers sum_i (w_i - C_label(i))^2 until no label changes. In one dimension a cluster is a run of the sorted
    numbers, so one pass costs k binary searches and differences of cumulated sums, not n k distances.

    init="linear" starts from k values evenly between the smallest and the largest, ends included, so that large,
    rare weights get values of their own; "density" from quantiles. Han et al. 2016, section 3,
    https://arxiv.org/abs/1510.00149, found the first one best for accuracy.

    Args:
        values: array of any shape, finite; exact zeros stay zero and get no cluster.
        clusters: k >= 1, at most that many; fewer where a cluster stays empty. Where no more numbers differ
            than k, the codebook holds just these.
        init: "linear" or "density".
        iterations: at most that many passes, >= 1.

    Returns:
        (codebook, labels): float32 values in rising order, and int32 of the shape of `values`, -1 for zeros.

    Raises:
        InputError: NaN or infinite values, other arguments out of range.

    Example:
        >>> codebook, labels = kmeans(np.array([0.0, 1.0, 1.5, -2.0]), 2)
        >>> codebook.tolist(), labels.tolist()
        ([-2.0, 1.25], [-1, 1, 1, 0])
    """
    values = np.asarray(values)
    clusters, iterations = positive_int("clusters", clusters), positive_int("iterations", iterations)
    one_of("init", init, ("linear", "density"))
    if not np.isfinite(values).all():
        raise InputError("values: got NaN or infinite ones, allowed: finite ones (did the training diverge?)")
    flat = values.ravel()
    places = np.flatnonzero(flat)
    order = np.argsort(flat[places], kind="stable")
    line = flat[places][order].astype(np.float64)
    labels = np.full(flat.size, -1, np.int32)
    if not line.size:
        return np.zeros(0, np.float32), labels.reshape(values.shape)
    distinct = np.flatnonzero(np.diff(line, prepend=-np.inf))
    edges = distinct if distinct.size <= clusters else _lloyd(line, clusters, init, iterations)
    edges = np.append(edges, line.size)
    sums = np.concatenate([[0.0], np.cumsum(line)])
    sizes = np.diff(edges)
    codebook = np.diff(sums[edges]) / sizes
    if distinct.size <= clusters:
        codebook = line[distinct]  # to the bit, where cumulated sums would round
    labels[places[order]] = np.repeat(np.arange(sizes.size, dtype=np.int32), sizes)
    return codebook.astype(np.float32), labels.reshape(values.shape)


def _lloyd(line: np.ndarray, clusters: int, init: str, iterations: int) -> np.ndarray:
    """Where each cluster that is not empty begins in the sorted numbers."""
    if init == "linear":
        centres = np.linspace(line[0], line[-1], clusters) if clusters > 1 else np.array([line.mean()])
    else:
        centres = np.quantile(line, (np.arange(clusters) + 0.5) / clusters)
    sums, edges = np.concatenate([[0.0], np.cumsum(line)]), np.empty(0, int)
    for _ in range(iterations):
        middles = (centres[:-1] + centres[1:]) / 2
        found = np.concatenate([[0], np.searchsorted(line, middles, side="right"), [line.size]])
        if np.array_equal(found, edges):
            break
        edges, sizes = found, np.diff(found)
        means = np.diff(sums[edges]) / np.maximum(sizes, 1)
        centres = np.where(sizes > 0, means, centres)  # an empty one waits where it is
    return np.unique(edges[:-1][np.diff(edges) > 0])
