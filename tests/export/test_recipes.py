"""The C++ that is generated and shown compiles and computes; the Kotlin that is shown uses names that exist."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from cpp_stand_ins import headers

from keras_aeprune._validation import InputError
from keras_aeprune.export.microcontroller import arena_hint, c_array, micro_source

DOCS = Path(__file__).parents[2] / "docs"
COMPILER = shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler (g++ or clang++) on PATH")
STRICT = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def compiled(folder, *sources, include=()):
    """The output of a program made of C++ sources."""
    files = []
    for n, source in enumerate(sources):
        files.append(folder / f"source_{n}.cc")
        files[-1].write_text(source)
    done = subprocess.run(
        [COMPILER, *STRICT, *include, "-o", str(folder / "program"), *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return subprocess.run([str(folder / "program")], capture_output=True, check=True).stdout


def checked(folder, source, include=()):
    (folder / "source.cc").write_text(source)
    command = [COMPILER, *STRICT, "-fsyntax-only", *include, str(folder / "source.cc")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Dense 512 with tanh and dense 4, by precision; enough weights for the converter to quantize them."""
    folder = tmp_path_factory.mktemp("recipes")
    weights = tf.constant(np.random.default_rng(0).normal(size=(4, 512)).astype("float32"))
    back = tf.constant(np.random.default_rng(1).normal(size=(512, 4)).astype("float32"))
    spec = [tf.TensorSpec((1, 4), name="x")]
    concrete = tf.function(lambda x: tf.tanh(x @ weights) @ back, input_signature=spec).get_concrete_function()
    found = {}
    for name in ("float32", "int8_io", "dynamic", "float16"):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
        if name != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if name == "int8_io":
            samples = np.random.default_rng(2).normal(size=(20, 1, 4)).astype("float32")
            converter.representative_dataset = lambda samples=samples: ([sample] for sample in samples)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        found[name] = folder / f"{name}.tflite"
        found[name].write_bytes(converter.convert())
    return found


def resolver_lines(source):
    return re.findall(r"resolver\.(Add\w+)\(\)", source)


@needs_compiler
def test_the_array_holds_the_bytes_of_the_file(files, tmp_path):
    main = """#include <cstdint>
    #include <cstdio>
    extern const unsigned char ae_data[];
    extern const unsigned int ae_size;
    int main() {
      if (reinterpret_cast<uintptr_t>(ae_data) % 16 != 0) return 1;
      return std::fwrite(ae_data, 1, ae_size, stdout) == ae_size ? 0 : 1;
    }"""
    assert compiled(tmp_path, c_array(files["float32"], name="ae"), main) == files["float32"].read_bytes()


def test_the_resolver_lists_exactly_the_operations_of_the_file(files):
    for name in ("float32", "int8_io"):
        source = micro_source(files[name])
        assert resolver_lines(source) == ["AddFullyConnected", "AddTanh"]
        assert "MicroMutableOpResolver<2>" in source


@needs_compiler
@pytest.mark.parametrize("name", ["float32", "int8_io"])
def test_the_calling_code_runs_on_a_stand_in_that_copies_its_input(files, tmp_path, name):
    """int8 in: q = round(x / 0.5) - 3 within -128 ... 127; out: 0.25 (q - 4)."""
    include = headers(tmp_path, whole=name == "int8_io")
    main = """#include <cstddef>
    #include <cstdio>
    bool ae_setup();
    size_t ae_arena_used();
    bool ae_run(const float* input_0, float* output_0);
    int main() {
      const float x[4] = {1.0f, -2.3f, 0.0f, -1000.0f};
      float y[4];
      if (ae_run(x, y) || ae_arena_used() != 0) return 1;  // not set up
      if (!ae_setup() || !ae_setup() || !ae_run(x, y) || ae_arena_used() != 77) return 2;
      for (float value : y) std::printf("%g ", value);
    }"""
    source = micro_source(files[name], name="ae")
    out = compiled(tmp_path, source, c_array(files[name], name="ae"), main, include=include)
    # -1000 is cut to -128, which is 0.5 * -125 = -62.5 and leaves as (-62.5 / 0.25 + 4) in 8 bits: 10
    last = np.int64(-62.5 / 0.25 + 4).astype("int8")
    wanted = [1, -2.5, 0, 0.25 * (float(last) - 4)] if name == "int8_io" else [1, -2.3, 0, -1000]
    np.testing.assert_allclose([float(value) for value in out.split()], wanted, rtol=1e-6)


@needs_compiler
def test_the_code_of_published_models_compiles(real_data, tmp_path):
    include = headers(tmp_path)
    wanted = {
        "mlperf_tiny_kws_int8": "AveragePool2D Conv2D DepthwiseConv2D FullyConnected Reshape Softmax",
        "mlperf_tiny_ad01_fp32": "FullyConnected",
        "mnist_lstm_int8": "FullyConnected Reshape Softmax UnidirectionalSequenceLSTM",
        "gearbox_ae_int8": "FullyConnected Logistic",
    }
    for name, methods in wanted.items():
        source = micro_source(real_data / "models" / f"{name}.tflite")
        assert resolver_lines(source) == [f"Add{method}" for method in methods.split()]
        checked(tmp_path, source, include)


@pytest.mark.parametrize(
    ("name", "words"), [("dynamic", "int8 weights and float32 inputs"), ("float16", "float16")]
)
def test_files_that_a_microcontroller_cannot_run_are_refused(files, name, words):
    with pytest.raises(InputError, match=f"{words}.*, allowed: float32 and calibrated int8"):
        micro_source(files[name])


def test_operations_that_a_microcontroller_lacks_are_named(tmp_path):
    specs = [tf.TensorSpec((1, 4), name="x")]
    concrete = tf.function(lambda x: tf.math.erf(tf.exp(x)), input_signature=specs).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    (tmp_path / "erf.tflite").write_bytes(converter.convert())
    with pytest.raises(InputError, match="with FlexErf, which"):
        micro_source(tmp_path / "erf.tflite")


def test_a_name_that_is_no_name_in_cpp_is_refused_and_file_names_cannot_leave_the_comment(files, tmp_path):
    for function in (c_array, micro_source):
        for name in ("2d", "a b", "a;", "", None):
            with pytest.raises(InputError, match="name: got"):
                function(files["float32"], name=name)
        odd = tmp_path / "odd\nint evil;\\.tflite"
        odd.write_bytes(files["float32"].read_bytes())
        assert not [line for line in function(odd).splitlines() if line.startswith("int evil")]
    with pytest.raises(InputError, match="TFL3"):
        (tmp_path / "text.tflite").write_text("a text that is no model")
        c_array(tmp_path / "text.tflite")


def test_the_arena_holds_what_is_alive_together(files):
    """4, 512, 512 and 4 values: at most 512 + 512 together, in float32 or int8."""
    model_keeps = arena_hint(files["float32"]) - 1.25 * 4 * (512 + 512)
    assert 0 < model_keeps < 8192
    assert arena_hint(files["float32"]) % 16 == 0
    smaller = arena_hint(files["float32"]) - arena_hint(files["int8_io"])
    assert smaller == pytest.approx(1.25 * 3 * (512 + 512), abs=80)


@needs_compiler
def test_the_microcontroller_page_compiles(tmp_path):
    (source,) = blocks("microcontroller.md", "cpp")
    checked(tmp_path, source)


@needs_compiler
@pytest.mark.parametrize("whole", [False, True], ids=["float32", "int8_io"])
def test_the_phone_page_runs_on_a_stand_in_that_copies_its_input(tmp_path, whole):
    (source,) = blocks("phone.md", "cpp")
    main = """
    #include <cstdio>
    int main() {
      {
        Autoencoder ae("ae.tflite", 2);
        for (float value : ae.Run({1.0f, -2.3f, 0.0f, 3.0f})) std::printf("%g ", value);
        for (float value : ae.RunSignature("encoder", {4.0f, 0.5f, 0.0f, 1.0f})) std::printf("%g ", value);
        try { ae.RunSignature("code", {}); return 1; } catch (const std::runtime_error&) {}
        try { ae.RunSignature("encoder", {1.0f}); return 2; } catch (const std::runtime_error&) {}
      }
      try { Autoencoder other("other.tflite", 1); return 3; } catch (const std::runtime_error&) {}
      return Alive() == 0 ? 0 : 4;
    }"""
    out = compiled(tmp_path, source + main, include=headers(tmp_path, whole=whole))
    wanted = [1, -2.5 if whole else -2.3, 0, 3, 4, 0.5, 0, 1]
    np.testing.assert_allclose([float(value) for value in out.split()], wanted, rtol=1e-6)


# Members of LiteRT's, Java's and Kotlin's classes that the page may call; its own functions are found in it.
KOTLIN = """CompiledModel Options create createInputBuffers createOutputBuffers writeFloat readFloat run close
forEach Interpreter setNumThreads getInputTensor getOutputTensor numElements numBytes dataType quantizationParams
getSignatureInputs getSignatureOutputs runSignature mapOf allocateDirect order nativeOrder rewind put putFloat get
getFloat round coerceIn toByte FloatArray"""


def test_kotlin_has_matching_brackets_and_calls_known_names_only():
    sources = blocks("phone.md", "kotlin")
    assert len(sources) == 4
    for source in sources:
        code = re.sub(r'"[^"]*"|//[^\n]*|/\*.*?\*/', "", source, flags=re.DOTALL)
        open_ones = []
        for character in code:
            if character in "([{":
                open_ones.append(character)
            elif character in ")]}":
                assert open_ones and open_ones.pop() + character in ("()", "[]", "{}")
        assert not open_ones
        called = set(re.findall(r"\b([A-Za-z]\w*)\(", code)) - {"for", "if"}
        own = set(re.findall(r"\b(?:fun|class) (\w+)", code))
        assert called <= {*KOTLIN.split(), *own}, called
        imported = {line.rpartition(".")[2] for line in re.findall(r"^import (\S+)$", code, re.MULTILINE)}
        body = re.sub(r"^import .*$", "", code, flags=re.MULTILINE)
        assert all(re.search(rf"\b{name}\b", body) for name in imported)
        used = set(re.findall(r"\b[A-Z]\w*[a-z]\w*\b", body)) - own
        assert used <= imported | {"Float", "FloatArray", "Int", "Options", "AutoCloseable", "Math"}


@pytest.mark.skipif(shutil.which("kotlinc") is None, reason="no kotlinc on PATH")
def test_kotlin_parses(tmp_path):
    """Without LiteRT's classes only syntax errors count; they come before unresolved references."""
    for n, source in enumerate(blocks("phone.md", "kotlin")):
        (tmp_path / f"Block{n}.kt").write_text(source)
        command = ["kotlinc", str(tmp_path / f"Block{n}.kt"), "-d", str(tmp_path / "out")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        errors = [line for line in done.stderr.splitlines() if ": error:" in line]
        assert not [line for line in errors if "expecting" in line.lower() or "syntax" in line.lower()], errors


@pytest.mark.parametrize("page", ["phone.md", "microcontroller.md"])
def test_python_on_the_pages_parses_and_imports_names_that_exist(page):
    for source in blocks(page, "python"):
        tree = ast.parse(source)
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_aeprune"):
                exec(compile(ast.Module([node], []), page, "exec"), {})
