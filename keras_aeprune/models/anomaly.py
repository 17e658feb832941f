"""Anomaly detection: what an autoencoder of normal data reconstructs badly."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_aeprune._files import writable_folder, writing
from keras_aeprune._validation import InputError, fraction, keras_model, one_of, positive_int, refuse
from keras_aeprune.datasets.scaling import Scaling
from keras_aeprune.models.files import load as load_model
from keras_aeprune.models.ranking import auc, best_threshold, binary_labels, partial_auc
from keras_aeprune.models.raw import check_scaling, rescaling, sample_of, scaled

ERRORS = ("mse", "mae", "max")
_MEMBER = "anomaly_detector.json"
_FLOOR = 1e-3  # smallest error of a feature that counts, as a fraction of the mean over the features


@dataclass(frozen=True)
class DetectionReport:
    """What a detector finds in labelled data; made by `AnomalyDetector.evaluate`.

    Args:
        auc: area under the ROC curve, 0 to 1, independent of the threshold.
        partial_auc: up to a fraction of 0.1 false alarms, 0.5 = chance, 1 = perfect (as DCASE, MLPerf Tiny).
        precision: fraction of the flagged samples that are anomalies; 0 where nothing is flagged.
        recall: fraction of the anomalies that are flagged.
        f1: 2 * precision * recall / (precision + recall); 0 where both are 0.
        accuracy: fraction of the samples that are judged rightly.
        threshold: samples with a higher score are flagged.
        samples: how many were judged.
        anomalies: how many of them are anomalies.
    """

    auc: float
    partial_auc: float
    precision: float
    recall: float
    f1: float
    accuracy: float
    threshold: float
    samples: int
    anomalies: int

    def to_dict(self) -> dict[str, float | int]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        rows = (
            ("AUC", f"{self.auc:.4f}"),
            ("partial AUC (<= 0.1 false alarms)", f"{self.partial_auc:.4f}"),
            ("precision", f"{self.precision:.4f}"),
            ("recall", f"{self.recall:.4f}"),
            ("F1", f"{self.f1:.4f}"),
            ("accuracy", f"{self.accuracy:.4f}"),
            ("threshold", f"{self.threshold:.6g}"),
        )
        lines = [f"{self.anomalies} anomalies in {self.samples} samples"]
        return "\n".join(lines + [f"{name:<34}{value:>10}" for name, value in rows])


class AnomalyDetector:
    """Flags the samples that an autoencoder of normal data reconstructs badly.

    Use it with an autoencoder that was trained on normal samples only. With d the reconstruction minus the
    model's input, one number for each of the D values of a sample, the score is

        mse: mean d^2        mae: mean |d|        max: max |d|

    in the values that the model sees (scaled ones where `scaling` is given), and a sample is flagged where
    score > threshold. standardize=True first divides each d by the root-mean-square that it has over the
    normal data of `fit`; "mse" is then a Mahalanobis distance with a diagonal covariance. That helps where some
    features are noisy even in normal data and drown the rest; it hurts where there are few normal samples. A
    feature that is reconstructed more exactly than 0.001 of the average one counts as if it were 0.001 of it.

    The autoencoder is not changed or copied: train it on, and fit again. Compare with PCA (`PCA.errors`, or
    `compare`): an autoencoder whose AUC is below that of PCA is not worth its size.

    Args:
        autoencoder: any built Keras model with one input whose output has the shape of its input.
        scaling: of raw values; all data is then raw. None: data is given as the model takes it.
        error: "mse", "mae" or "max".
        standardize: divide each value's error by its usual size.

    Attributes:
        threshold: set by `fit`; None before.

    Raises:
        InputError: an argument cannot be used.

    >>> from keras_aeprune.models.dense import dense
    >>> x = np.random.default_rng(0).random((200, 9))
    >>> detector = AnomalyDetector(dense((9,), 2)).fit(x, quantile=0.95)
    >>> int(detector.predict(x).sum()), detector.scores(x[:3]).shape
    (10, (3,))
    """

    def __init__(
        self,
        autoencoder: keras.Model,
        *,
        scaling: Scaling | None = None,
        error: str = "mse",
        standardize: bool = False,
    ):
        shape = sample_of(keras_model(autoencoder, "autoencoder"))
        if getattr(autoencoder, "outputs", None):
            outputs = [tuple(tensor.shape)[1:] for tensor in autoencoder.outputs]
            if outputs != [shape]:
                raise InputError(
                    f"autoencoder: got {autoencoder.name!r}, which turns samples of shape {shape} into {outputs}, "
                    "allowed: one output of the input's shape"
                )
        if scaling is not None:
            check_scaling(scaling, shape)
        if not isinstance(standardize, (bool, np.bool_)):
            raise refuse("standardize", standardize, "True or False")
        if standardize and None in shape:
            raise InputError(
                f"standardize: got True for samples of shape {shape}, allowed: False for unknown sizes"
            )
        self.autoencoder = autoencoder
        self.scaling = scaling
        self.error = one_of("error", error, ERRORS)
        self.standardize = bool(standardize)
        self.threshold: float | None = None
        self._usual: np.ndarray | None = None

    def scores(self, x: np.ndarray, batch_size: int = 512) -> np.ndarray:
        """Reconstruction error of each sample, higher = more anomalous.

        Args:
            x: shape (n, ...), n >= 1, finite; raw values where the detector has a scaling.
            batch_size: samples that the model gets at a time, >= 1.

        Returns:
            float64 array of shape (n,).

        Raises:
            InputError: `x` does not fit, the reconstruction is not finite, or standardize=True before `fit`.
        """
        if self.standardize and self._usual is None:
            raise InputError("detector: got standardize=True without normal data, allowed: after fit(x)")
        return self._scores(self._differences(x, batch_size))

    def fit(self, x: np.ndarray, y: np.ndarray | None = None, *, quantile: float = 0.99) -> AnomalyDetector:
        """Set the threshold (and the usual errors, where standardize=True).

        Without labels it is a quantile of the scores of normal data; take data that the autoencoder was not
        trained on, else it is too low. With labels it is the one with the highest F-score, exact over all
        midpoints between scores; of equal ones the highest, which flags least.

        Args:
            x: shape (n, ...), n >= 1; normal samples only, unless `y` is given.
            y: shape (n,), 1 or True = anomaly, both kinds; None if all are normal.
            quantile: fraction of the normal samples that are not flagged, 0 < quantile <= 1; only without `y`.

        Returns:
            The detector itself.

        Raises:
            InputError: an argument cannot be used, or standardize=True and every reconstruction is exact.
        """
        quantile = fraction("quantile", quantile, low_open=True, high_open=False)
        labels = None if y is None else binary_labels(y, len(np.asarray(x)))
        usual = self._usual
        if self.standardize:
            normal = x if labels is None else np.asarray(x)[~labels]
            usual = self._usual_errors(normal)
        scores = self._scores(self._differences(x, 512), usual)
        self._usual = usual
        at = float(np.quantile(scores, quantile)) if labels is None else best_threshold(scores, labels)
        self.threshold = at
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Whether each sample is an anomaly: bool array (n,), score > threshold; after `fit`."""
        threshold = self._fitted()
        return self.scores(x) > threshold

    def auc(self, x: np.ndarray, y: np.ndarray) -> float:
        """Area under the ROC curve of the scores, 0 to 1, exact with ties; y: shape (n,), 1 = anomaly."""
        return auc(self.scores(x), y)

    def evaluate(self, x: np.ndarray, y: np.ndarray) -> DetectionReport:
        """How well labelled samples are told apart; after `fit`.

        Args:
            x: shape (n, ...), as in `scores`.
            y: shape (n,), 1 or True = anomaly; both kinds must be there.
        """
        threshold, scores = self._fitted(), self.scores(x)
        labels = binary_labels(y, len(scores))
        flagged = scores > threshold
        found, alarms, anomalies = int((flagged & labels).sum()), int(flagged.sum()), int(labels.sum())
        return DetectionReport(
            auc=auc(scores, labels),
            partial_auc=partial_auc(scores, labels),
            precision=found / alarms if alarms else 0.0,
            recall=found / anomalies,
            f1=2 * found / (alarms + anomalies),
            accuracy=float((flagged == labels).mean()),
            threshold=threshold,
            samples=len(labels),
            anomalies=anomalies,
        )

    def as_model(self) -> keras.Model:
        """A plain Keras model from (raw) samples to {"score": (n,), "anomaly": (n,)}, both float32; after `fit`.

        Scaling, error, usual errors and threshold are inside. Its file loads without this package (a subclassed
        autoencoder needs its own class, registered with Keras). It computes in float32: a sample whose score is
        within about 1e-6 of the threshold, as a fraction, may be judged otherwise than by `predict`.
        """
        threshold, shape = self._fitted(), sample_of(self.autoencoder)
        raw = keras.Input(shape, name="raw_values")
        seen = raw if self.scaling is None else scaled(raw, self.scaling, shape)
        rebuilt = self.autoencoder(seen)
        if tuple(rebuilt.shape) != tuple(seen.shape):
            raise self._misshaped(rebuilt.shape, seen.shape)
        rebuilt = keras.ops.cast(rebuilt, "float32")
        difference = keras.layers.Subtract(name="difference", dtype="float32")([rebuilt, seen])
        if self._usual is not None:
            difference = rescaling(1 / self._usual, np.zeros(()), "standardize")(difference)
        axes = list(range(1, len(shape) + 1))
        if self.error == "mse":
            score = keras.ops.mean(keras.ops.square(difference), axis=axes)
        else:
            reduce = keras.ops.mean if self.error == "mae" else keras.ops.max
            score = reduce(keras.ops.absolute(difference), axis=axes)
        flag = keras.ops.cast(keras.ops.greater(score, float(np.float32(threshold))), "float32")
        return keras.Model(raw, {"score": score, "anomaly": flag}, name=f"{self.autoencoder.name}_detector")

    def save(self, path: str | Path) -> None:
        """Write one .keras file: that of `as_model`, with what `load` needs beside it; after `fit`.

        Any program with Keras can run the file; the file is whole or not there.

        Args:
            path: ends in .keras; its folder is made if it is not there, an existing file is replaced.
        """
        if not isinstance(path, (str, Path)) or Path(path).suffix != ".keras" or Path(path).is_dir():
            raise refuse("path", path, "a file name that ends in .keras")
        self._fitted()
        config = {
            "autoencoder": self.autoencoder.name,
            "scaling": None if self.scaling is None else self.scaling.to_dict(),
            "error": self.error,
            "standardize": self.standardize,
            "threshold": self.threshold,
            "usual": None if self._usual is None else self._usual.ravel().tolist(),
        }
        writable_folder("path", Path(path).parent)
        with writing(path) as temporary:
            self.as_model().save(temporary)
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.writestr(_MEMBER, json.dumps(config, allow_nan=False))

    @classmethod
    def load(cls, path: str | Path) -> AnomalyDetector:
        """The detector that `save` wrote: same scores, threshold and settings.

        Raises:
            InputError: no file, a damaged one, or one that `save` did not write (Keras leaves our part out
                when it saves the model again).
        """
        model = load_model(path)
        try:
            with zipfile.ZipFile(path) as archive:
                config = json.loads(archive.read(_MEMBER))
        except (KeyError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(
                f"path: got {str(path)!r}, a Keras file without {_MEMBER}, allowed: one that "
                "AnomalyDetector.save wrote; a plain Keras model is run with models.load"
            ) from error
        try:
            scaling = None if config["scaling"] is None else Scaling.from_dict(config["scaling"])
            detector = cls(
                model.get_layer(config["autoencoder"]),
                scaling=scaling,
                error=config["error"],
                standardize=config["standardize"],
            )
            detector.threshold = float(config["threshold"])
            if detector.standardize:
                shape: Any = sample_of(detector.autoencoder)  # an open size is a TypeError here
                detector._usual = np.asarray(config["usual"]).reshape(shape)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"path: {_MEMBER} in {str(path)!r} does not fit its model ({error}), allowed: a file that "
                "AnomalyDetector.save wrote"
            ) from error
        return detector

    def _fitted(self) -> float:
        if self.threshold is None:
            raise InputError("detector: got one without a threshold, allowed: after fit(x), or fit(x, y)")
        return self.threshold

    def _misshaped(self, got: Any, wanted: Any) -> InputError:
        return InputError(
            f"autoencoder: {self.autoencoder.name!r} turns samples of shape {tuple(wanted)[1:]} into "
            f"{tuple(got)[1:]}, allowed: an output of the input's shape"
        )

    def _differences(self, x: Any, batch_size: int) -> Iterator[np.ndarray]:
        """Reconstruction minus input of a batch at a time, float64, shape (b, ...)."""
        size, shape = positive_int("batch_size", batch_size), sample_of(self.autoencoder)
        x = np.asarray(x)
        fits = x.ndim == len(shape) + 1 and all(
            wanted in (None, got) for wanted, got in zip(shape, x.shape[1:], strict=True)
        )
        if not fits or not x.size or x.dtype.kind not in "biuf":
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise refuse("x", f"{x.dtype} array of shape {x.shape}", f"numbers of shape (n, {wanted}) with n >= 1")
        for start in range(0, len(x), size):
            part = x[start : start + size]
            seen = part.astype("float32") if self.scaling is None else self.scaling.apply(part)
            if not np.isfinite(seen).all():
                raise InputError("x: got NaN or infinite values, allowed: finite numbers; drop or fill them")
            rebuilt = np.asarray(keras.ops.convert_to_numpy(self.autoencoder(seen, training=False)))
            if rebuilt.shape != seen.shape:
                raise self._misshaped(rebuilt.shape, seen.shape)
            if not np.isfinite(rebuilt).all():
                raise InputError(
                    f"autoencoder: {self.autoencoder.name!r} gives NaN or infinite values for finite samples, "
                    "allowed: finite reconstructions; check its weights"
                )
            yield rebuilt.astype("float64") - seen

    def _scores(self, differences: Iterator[np.ndarray], usual: np.ndarray | None = None) -> np.ndarray:
        usual = self._usual if usual is None else usual
        parts = []
        for difference in differences:
            if usual is not None:
                difference = difference / usual
            flat = np.abs(difference.reshape(len(difference), -1))
            if self.error == "max":
                parts.append(flat.max(axis=1))
            else:
                parts.append((np.square(flat) if self.error == "mse" else flat).mean(axis=1))
        return np.concatenate(parts)

    def _usual_errors(self, normal: np.ndarray) -> np.ndarray:
        """Root-mean-square error of each value over normal samples, in the shape of a sample."""
        total, count = 0.0, 0
        for difference in self._differences(normal, 512):
            total, count = total + np.square(difference).sum(axis=0), count + len(difference)
        usual = np.sqrt(total / count)
        if not usual.any():
            raise InputError(
                "x: every reconstruction is exact, so errors have no usual size, allowed: standardize=False"
            )
        return np.maximum(usual, _FLOOR * usual.mean())
