"""The table of precisions: what the converter is told, what it needs, and how far the file may be off."""

from __future__ import annotations

from dataclasses import dataclass

from keras_aeprune._validation import one_of


@dataclass(frozen=True)
class Precision:
    """One row of the table.

    Args:
        name: what `quantize=` accepts.
        weight_bytes: bytes that one weight of a kernel takes at least in the file.
        rms_limit: largest allowed root-mean-square difference, as a fraction of the spread of the model's
            output, > 0 (see `verify.difference`).
        limit: largest allowed single difference, as a fraction of the largest absolute output, > 0.
        needs_data: whether calibration inputs are required.
        optimize: whether the converter may quantize at all.
        types: TensorFlow type names for `target_spec.supported_types`; empty leaves the default.
        ops: `tf.lite.OpsSet` names for `target_spec.supported_ops`; empty leaves the default.
        quantized_io: whether input and output are int8 as well.
        can_be_sparse: whether kernels may be stored in sparse coding; see `SPARSE_REFUSED`.
        for_detectors: whether the score of an anomaly detector can stay in float32 behind it.

    Example:
        >>> PRECISIONS["int8"].needs_data, PRECISIONS["float16"].weight_bytes
        (True, 2)
    """

    name: str
    weight_bytes: int
    rms_limit: float
    limit: float
    needs_data: bool = False
    optimize: bool = True
    types: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    quantized_io: bool = False
    can_be_sparse: bool = False
    for_detectors: bool = True


# Limits: on 15 trained models that other people published (dense and convolutional autoencoders,
# classifiers) and a recurrent autoencoder the largest differences were, as rms / largest: float32 4.3e-6 /
# 2.3e-5, float16 3.6e-3 / 6.1e-3, dynamic 4.8e-2 / 1.9e-1, int8 1.0e-1 / 2.0e-1; with inputs far from the
# training data (random numbers) the rms was up to 1.3e-1 for dynamic and int8. On eight of them int8_io differed
# as int8 did to two digits, and int16x8 by up to 6.8e-2 / 1.4e-1.
# A file with wrong weights is off by an rms of about 1, so the limits leave room for harder models and still
# catch a broken file.
_INT16X8 = "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8"
PRECISIONS: dict[str, Precision] = {
    row.name: row
    for row in (
        Precision("float32", 4, rms_limit=3e-5, limit=2e-4, optimize=False, can_be_sparse=True),
        Precision("float16", 2, rms_limit=1e-2, limit=5e-2, types=("float16",), can_be_sparse=True),
        Precision("dynamic", 1, rms_limit=0.2, limit=0.5),
        Precision("int8", 1, rms_limit=0.2, limit=0.5, needs_data=True, ops=("TFLITE_BUILTINS_INT8",)),
        Precision(
            *("int8_io", 1),
            rms_limit=0.2,
            limit=0.5,
            needs_data=True,
            ops=("TFLITE_BUILTINS_INT8",),
            quantized_io=True,
            for_detectors=False,
        ),
        Precision(
            *("int16x8", 1), rms_limit=0.2, limit=0.5, needs_data=True, ops=(_INT16X8,), for_detectors=False
        ),
    )
}
SMALLEST = "smallest"
SPARSE_REFUSED = (
    "with 8-bit kernels a sparse-coded file does not load under the default delegate, or loads and returns garbage"
)


def precision(quantize: str | None) -> Precision:
    """The row for `quantize`; None is float32.

    Example:
        >>> precision(None).name, precision("int8").needs_data
        ('float32', True)
    """
    if quantize is None:
        return PRECISIONS["float32"]
    one_of("quantize", quantize, ["None", *PRECISIONS, SMALLEST])
    return PRECISIONS[quantize]


def precisions(quantize: str | None) -> tuple[Precision, ...]:
    """The rows to try for `quantize`: one, or for "smallest" all whose input and output are float32.

    Example:
        >>> [row.name for row in precisions("smallest")]
        ['float32', 'float16', 'dynamic', 'int8', 'int16x8']
    """
    if quantize == SMALLEST:
        return tuple(row for row in PRECISIONS.values() if not row.quantized_io)
    return (precision(quantize),)
