"""Whatever happens in the converter's process, the caller gets an error and the other files."""

import json
import signal
from importlib import import_module

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_aeprune as kap
from keras_aeprune._validation import InputError
from keras_aeprune.export import ConversionError, ExportMismatch, _convert, convert
from keras_aeprune.export.inputs import inputs_of
from keras_aeprune.export.precisions import PRECISIONS
from keras_aeprune.export.signatures import SIGNATURE
from keras_aeprune.export.trace import Endpoint, write_saved_model

tflite_module = import_module("keras_aeprune.export.tflite")

FAKE = """
import json, os, signal, sys
if os.path.dirname(os.path.abspath(__file__)) in sys.path:
    sys.exit("its neighbours hide other modules")
if os.environ["CUDA_VISIBLE_DEVICES"] != "-1":
    sys.exit("it takes memory of the GPU")
for job in json.load(open(sys.argv[1]))["jobs"]:
    kind = os.path.basename(job["output"])
    if kind.startswith("crash"):
        print("about to fall", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind.startswith("leave"):
        sys.exit("no more")
    name = job["output"] + (".error" if kind.startswith("refuse") else "")
    open(name, "w").write("not\\nthis one")
"""


def jobs(folder, *names, quantize="float32"):
    return [convert.Job(folder / "saved", folder / name, PRECISIONS[quantize]) for name in names]


def test_crash_costs_one_job_and_the_rest_go_on(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text(FAKE)
    monkeypatch.setattr(convert, "WORKER", worker)
    names = ("good_1", "crash_1", "refuse", "leave", "good_2", "crash_2")
    errors = convert.convert(jobs(tmp_path, *names), tmp_path)
    assert [error is None for error in errors] == [True, False, False, False, True, False]
    assert all(type(error) is ConversionError for error in errors if error)
    assert "crashed with SIGSEGV: 'about to fall" in str(errors[1])
    assert "float32 conversion failed: the converter refused it: not this one" in str(errors[2])
    assert "exit status 1 before it wrote a file: no more" in str(errors[3])
    assert "SIGSEGV" in str(errors[5])


def test_request_tells_the_converter_what_the_table_says(tmp_path):
    (job,) = jobs(tmp_path, "a.tflite", quantize="int8")
    values = json.loads(json.dumps(job.request()))
    assert values["optimize"] is True
    assert values["ops"] == ["TFLITE_BUILTINS_INT8"]
    assert jobs(tmp_path, "a")[0].request()["optimize"] is False
    assert jobs(tmp_path, "a", quantize="float16")[0].request()["types"] == ["float16"]


def test_calibrating_a_rolled_lstm_crashes_only_the_converter(tmp_path):
    """Why int8 is refused for recurrent loops. If this stops crashing, the refusal can go.

    The float32 file before it is there, and has the bytes that the converter gives in this process.
    """
    model = keras.Sequential([keras.Input((6, 2)), keras.layers.LSTM(4)])
    inputs = inputs_of(model)
    write_saved_model([Endpoint(SIGNATURE, model, inputs, ((6, 2),))], tmp_path / "saved")
    np.save(tmp_path / "x.npy", np.ones((4, 6, 2), "float32"))
    calibration = {SIGNATURE: {inputs.items[0].name: tmp_path / "x.npy"}}
    good = convert.Job(tmp_path / "saved", tmp_path / "good.tflite", PRECISIONS["float32"])
    job = convert.Job(tmp_path / "saved", tmp_path / "a.tflite", PRECISIONS["int8"], calibration)
    nothing, error = convert.convert([good, job], tmp_path)
    assert nothing is None
    assert good.output.read_bytes() == _convert.convert(good.request())
    assert type(error) is ConversionError
    assert signal.Signals.SIGSEGV.name in str(error)
    assert not job.output.exists()


def test_weights_are_counted_that_must_be_in_the_file(tmp_path):
    """4 x 3 once for two kernels of zeros, 3 x 5; not the bias, not the normalization, not what is unused."""

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.one = keras.layers.Dense(3, kernel_initializer="zeros")
            self.two = keras.layers.Dense(3, kernel_initializer="zeros")
            self.norm = keras.layers.BatchNormalization()
            self.last = keras.layers.Dense(5)
            self.unused = keras.layers.Dense(7)

        def call(self, x):
            self.unused(x)
            return self.last(self.norm(self.one(x) + self.two(x)))

    model = Model()
    model(np.ones((1, 4), "float32"))
    traced = write_saved_model([Endpoint(SIGNATURE, model, inputs_of(model), ((4,),))], tmp_path / "saved")
    assert traced.kernel_count == 4 * 3 + 3 * 5
    assert traced.kernel_nonzeros == 3 * 5
    assert traced.zeros_pay
    assert not traced.has_loop


@pytest.fixture
def converter_gives(monkeypatch):
    """Let the converter 'write' these bytes, whatever it is asked for."""

    def give(content):
        def fake(jobs, folder):
            for job in jobs:
                job.output.write_bytes(content)
            return [None] * len(jobs)

        monkeypatch.setattr(tflite_module, "convert", fake)

    return give


def in_process(function, shape, trackable=None):
    """The bytes that the converter makes of a function, without a process of its own."""
    concrete = tf.function(function, input_signature=[tf.TensorSpec(shape, name="x")]).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], trackable).convert()


def dense(units, **options):
    return keras.Sequential([keras.Input((units,), name="x"), keras.layers.Dense(units, **options)], name="ae")


def test_mismatch_is_raised_with_numbers_and_leaves_nothing(tmp_path, converter_gives):
    """The file returns 0.5 x where the model returns x: off by half of the largest output."""
    model = dense(4, kernel_initializer="identity")
    converter_gives(in_process(lambda x: 0.5 * x, (1, 4)))
    (tmp_path / "old.tflite").write_bytes(b"old")
    x = np.array([[1, -1, 1, -1]], "float32")
    with pytest.raises(ExportMismatch, match=r"up to 0.5 of the largest output \(limit 0.0002\) and by 0.5 "):
        kap.export.tflite(model, tmp_path / "old.tflite", data=x)
    assert [path.name for path in tmp_path.iterdir()] == ["old.tflite"]
    assert (tmp_path / "old.tflite").read_bytes() == b"old"


def test_file_that_is_too_small_for_the_weights_is_refused_even_if_it_computes_right(tmp_path, converter_gives):
    converter_gives(in_process(lambda x: x + 0.0, (1, 64)))
    with pytest.raises(ExportMismatch, match=r"alone take 16384; its weights are missing"):
        kap.export.tflite(dense(64, kernel_initializer="identity"), tmp_path / "a.tflite")


def test_uninitialized_weights_of_the_route_with_a_trackable_are_caught(tmp_path, converter_gives):
    """from_concrete_functions([f], model) writes a loadable file without the model's weights."""
    model = dense(8)
    converter_gives(in_process(lambda x: model(x), (1, 8), trackable=model))
    with pytest.raises(ExportMismatch):
        kap.export.tflite(model, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())


def test_file_that_does_not_load_is_a_conversion_error(tmp_path, converter_gives):
    converter_gives(b"nothing that the interpreter knows" * 10)
    with pytest.raises(ConversionError, match="float32: the converted file does not run: "):
        kap.export.tflite(dense(4), tmp_path / "a.tflite")


def test_one_bad_precision_keeps_all_files_back_unless_errors_are_returned(tmp_path, monkeypatch):
    """Of two precisions the second fails in the converter; a kernel without zeros is tried in one coding only."""
    model = dense(4)
    content = in_process(lambda x: model(x), (1, 4))

    def fake(jobs, folder):
        jobs[0].output.write_bytes(content)
        return [None, ConversionError("the second one")]

    monkeypatch.setattr(tflite_module, "convert", fake)
    paths = {"float16": tmp_path / "a.tflite", None: tmp_path / "b.tflite"}
    with pytest.raises(ConversionError, match="the second one"):
        kap.export.tflite_many(model, paths)
    assert not list(tmp_path.iterdir())
    files = kap.export.tflite_many(model, paths, on_failure="return")
    assert list(files) == ["float16", None]
    assert files["float16"].path == tmp_path / "a.tflite"
    assert isinstance(files[None], ConversionError)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tflite"]


def test_model_that_returns_nan_is_not_compared(tmp_path, converter_gives):
    model = dense(4, bias_initializer=keras.initializers.Constant(float("nan")))
    converter_gives(in_process(lambda x: model(x), (1, 4)))
    with pytest.raises(InputError, match="NaN or infinite in output_0 on 64 samples"):
        kap.export.tflite(model, tmp_path / "a.tflite")


def test_a_line_is_written_where_it_is_asked_for(tmp_path, converter_gives, capsys):
    model = dense(4)
    converter_gives(in_process(lambda x: model(x), (1, 4)))
    kap.export.tflite(model, tmp_path / "a.tflite")
    assert capsys.readouterr() == ("", "")
    kap.export.tflite(model, tmp_path / "a.tflite", progress=True)
    assert capsys.readouterr() == ("", "1 file to convert and compare\n")
