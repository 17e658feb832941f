"""Each hint where it belongs, and none where it does not."""

import pytest

from keras_aeprune.report.hints import hints
from keras_aeprune.report.inspected import Inspection, LayerRow


def layer(path="code", kind="Dense", dtype="float32", **more):
    return LayerRow(path, kind, None, dtype, **more)


def of(*rows, kind="keras", **more):
    return hints(Inspection("m", kind, rows, **more))


def test_zeros_say_that_they_make_no_file_faster():
    many = layer(kernel_weights=100, zeros=97, parameters=100)
    (said,) = of(many, bytes=900_000, gzip_bytes=421_000)
    assert said.startswith(
        "0.970 of the kernel weights are zero: the file zips to 421.0 kB, but will not run faster"
    )
    (said,) = of(many, kind="memory")
    assert said.startswith("0.970 of the kernel weights are zero: files of it compress well, but will not run")
    for zeros, count in ((29, 0), (30, 1)):
        assert len(of(layer(kernel_weights=100, zeros=zeros))) == count


def test_odd_widths_are_named_but_not_that_of_the_output_and_no_narrow_ones():
    held = {"kernel_weights": 9, "macs": 9}
    rows = [layer(name, units=units, **held) for name, units in (("a", 100), ("b", 64), ("n", 15), ("c", 33))]
    (said,) = of(*rows)
    assert said.endswith("widths that are no multiple of 8 run slower than the next one that is: a (100)")
    (said,) = of(*(layer(f"l{i}", units=17 + 8 * i, **held) for i in range(8)))
    assert said.endswith(": l0 (17), l1 (25), l2 (33), l3 (41), l4 (49) and 2 more")


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        (layer("r", "GRU", note="runs as a loop"), "keras", ["r (GRU) runs as a loop: unrolled"]),
        (layer("r", "GRU"), "keras", []),
        (layer("z", "Sampling"), "keras", ["z draws random numbers: export models.for_inference(model)"]),
        (layer("z", "Sampling"), "tflite", []),
        (layer("3", "WHILE"), "tflite", ["operation 3 is a loop"]),
        (layer("3", "FlexErf"), "tflite", ["operation 3 (FlexErf) needs TensorFlow's own kernels"]),
        (layer("3", units=1200, dead=1100), "tflite", ["all weights of 1,100 of its 1,200 units are zero"]),
        (layer(weight_bytes=20_000), "tflite", ["20.0 kB of the weights are float32: int8 makes them 4 times"]),
        (layer(weight_bytes=19_999), "tflite", []),
        (layer(weight_bytes=20_000, note="sparse-encoded"), "tflite", []),
        (layer(weight_bytes=20_000, dtype="int8"), "tflite", []),
        (layer(dtype="float16"), "tflite", ["float16 weights halve the file but run at the speed of float32"]),
        (layer(dtype="int8", note="sparse-encoded"), "tflite", ["sparse-encoded weights that are not float32"]),
    ],
)
def test_a_hint_stands_where_it_belongs(row, kind, words):
    found = of(row, kind=kind)
    assert len(found) == len(words)
    assert all(word in said for word, said in zip(words, found, strict=True))


def test_a_transposed_convolution_is_slow_in_int8_with_a_relu_right_behind_it():
    slow, relu = layer("0", "TRANSPOSE_CONV", "int8"), layer("1", "RELU", "int8")
    (said,) = of(slow, relu, kind="tflite")
    assert said.startswith("operation 0 (int8 TRANSPOSE_CONV followed by RELU) is slow: LeakyReLU there is")
    assert of(slow, layer("1", "ADD", "int8"), relu, kind="tflite") == []
    assert of(layer("0", "TRANSPOSE_CONV"), relu, kind="tflite") == []


def test_what_the_inspection_says_stands_first_and_nothing_twice():
    row = layer("z", "Sampling", kernel_weights=10, zeros=5)
    said = of(row, row, hints=("first", "second"))
    assert [line.split()[0] for line in said] == ["first", "second", "0.500", "z"]
