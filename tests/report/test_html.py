import html as markup
import json
import os
import re
import stat
from html.parser import HTMLParser

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeprune._validation import InputError
from keras_aeprune.report import figures, page, reconstructions, write
from keras_aeprune.report.style import STYLE


def report():
    names = {"mean": 0.07, "pca": 0.03, "dense": 0.02, "pruned": 0.021}
    rows = [{"name": name, "label": name, "test_mse": error} for name, error in names.items()]
    rows[1]["numbers"] = 8
    rows[2] |= {"parameters": 5544, "nonzero": 5544, "sparsity": 0.0}
    rows[3] |= {"parameters": 5544, "nonzero": 1244, "sparsity": 0.8}
    for name, size in (("dense_float32", 26320), ("pruned_int8", 15144)):
        rows.append({"name": name, "label": name, "test_mse": 0.022, "file": f"{name}.tflite", "bytes": size})
    return {
        "format": 1,
        "data": {
            "name": "digits",
            "samples": {"train": 1437, "validation": 180, "test": 180},
            "sample_shape": [8, 8],
            "features": 64,
            "scaling": {"kind": "unit", "offset": 0.0, "divisor": 16.0, "output_range": "unit"},
            "fingerprint": "0123456789abcdef" * 4,
            "notes": [],
        },
        "settings": {"encoding_dim": 8, "hidden_units": [32, 16], "epochs": {"dense": 100}, "shuffle": True},
        "rows": rows,
        "layers": [
            {
                "path": "encoder/code/kernel",
                "shape": [16, 8],
                "weights": 128,
                "asked": 0.8,
                "reached": 0.797,
                "pattern": "unstructured",
                "reason": "",
            }
        ],
        "history": {"dense": {"loss": [0.2, 0.1]}, "prune": {"loss": [0.3], "sparsity": [0.8]}},
        "pca_curve": {"widths": [1, 8, 16], "test_mse": [0.06, 0.03, 0.01]},
        "measured_on_this_machine": {
            "latency": [
                {
                    "name": "pruned_int8",
                    "median_us": 0.7121,
                    "p10_us": 0.7,
                    "p90_us": 0.8,
                    "threads": 1,
                    "ratio": 1.0,
                }
            ],
            "seconds": {"dense": 8.1},
            "peak_memory_mb": 775.3,
            "environment": {"cpu": "a processor", "gpus": []},
        },
    }


def pictures(of):
    samples = np.random.default_rng(0).random((10, 8, 8))
    return figures(of, {"original": samples, "dense": samples * 0.9})


@pytest.fixture(scope="module")
def whole():
    return page(report(), pictures(report()))


class Reader(HTMLParser):
    """Checks that tags are closed in order, and collects attributes, ids and text."""

    ALONE = ("meta", "br", "image", "path", "use", "rect")

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.ids, self.tags, self.text = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_no_script_and_nothing_from_outside(whole):
    read = Reader(whole)
    assert not {"script", "link", "iframe", "img", "object", "embed", "form"} & set(read.tags)
    assert read.tags.count("svg") == 5
    for tag, key, value in read.attributes:
        assert not key.startswith("on"), (tag, key)
        if key in ("src", "href", "xlink:href", "action", "data"):
            assert value.startswith(("#", "data:image/png;base64,")), (tag, key, value[:50])
    assert not re.search(r"url\((?!#)|@import", whole)
    assert set(re.findall(r"https?://[^\s\"']+", whole)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_ids_are_unique_and_every_reference_is_met(whole):
    ids = Reader(whole).ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", whole)) <= set(ids)


def test_the_page_begins_with_the_result(whole):
    body = whole[whole.index("<main>") + 6 :].lstrip()
    assert body.startswith(
        "<h1>The pruned int8 file is 15.1&nbsp;kB, 1.7&times; smaller than the dense float32 file."
    )
    assert "0.73&times; that of PCA with the same 8 numbers" in body[: body.index("</h1>")]


def test_all_numbers_are_in_the_page_with_their_units(whole):
    said = " ".join(Reader(whole).text)
    for part in (
        "0.0210",
        "1.05\N{MULTIPLICATION SIGN}",
        "5,544",
        "1,244",
        "26.3\xa0kB",
        "0.71\xa0\N{MICRO SIGN}s",
        "0.7970",
        "775 MB",
    ):
        assert part in said, part
    assert "32, 16" in said
    assert "dense 100" in said
    assert "0123456789abcdef..." in said
    assert "do not make LiteRT faster" in said


def test_the_best_file_is_the_only_marked_row(whole):
    assert re.findall(r'<tr class="best"><th scope="row">([^<]+)<', whole) == ["pruned_int8"]


def test_the_same_report_gives_the_same_page(whole):
    assert page(report(), pictures(report())) == whole


def test_every_colour_variable_is_defined_for_light_and_dark(whole):
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)
    for variable in set(re.findall(r"var\(--([a-z]+)", whole)):
        assert f"--{variable}:" in light, variable
        assert f"--{variable}:" in dark, variable


def test_all_text_is_escaped():
    evil = '<script>alert("x")</script>&'
    one = report()
    one["data"] |= {"name": evil, "notes": [evil], "fingerprint": evil}
    one["data"]["scaling"]["kind"] = evil
    one["settings"] = {evil: evil, "list": [evil], "dict": {evil: evil}}
    one["layers"][0] |= {"path": evil, "reason": evil, "pattern": evil}
    one["measured_on_this_machine"]["environment"] = {evil: evil}
    for row in one["rows"]:
        row["label"] = evil
    one["rows"][-1]["file"] = evil
    text = page(one, {**figures(one), evil.strip("<>&")[:6]: reconstructions({evil: np.zeros((1, 8, 8))}, (8, 8))})
    assert "script" not in Reader(text).tags
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 15


def test_the_page_stays_light_with_the_worst_pictures():
    noise = np.random.default_rng(0).random((10, 96, 96, 3)).astype("float32")
    figure = reconstructions(dict.fromkeys(("original", "PCA", "dense", "pruned", "int8"), noise), (96, 96, 3))
    assert len(page(report(), {**pictures(report()), "reconstructions": figure}).encode()) < 1_500_000


def test_a_report_with_the_least_is_still_a_page():
    text = page({"rows": [{"name": "a", "label": "a", "test_mse": 0.1}], "data": {}, "settings": {}}, {})
    assert "No file was written" in text
    assert "Use the file" not in text


@pytest.mark.parametrize("key", ["rows", "data", "settings"])
def test_a_report_without_a_needed_part_is_refused(key):
    one = report()
    del one[key]
    with pytest.raises(InputError, match=f"no '{key}'"):
        page(one, {})


def test_written_files_are_the_report_and_the_page(tmp_path, whole):
    json_path, html_path = write(report(), pictures(report()), folder=tmp_path / "new" / "run")
    assert (json_path, html_path) == (tmp_path / "new/run/report.json", tmp_path / "new/run/report.html")
    assert html_path.read_text(encoding="utf-8") == whole
    text = json_path.read_text(encoding="utf-8")
    assert json.loads(text) == report()
    assert list(json.loads(text)) == sorted(report())
    assert sorted(os.listdir(tmp_path / "new/run")) == ["report.html", "report.json"]


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    for path in write(report(), {}, folder=tmp_path):
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (float("nan"), r"report\.settings\.x\[1\]: got nan"),
        (float("inf"), r"report\.settings\.x\[1\]: got inf"),
        (np.float32(1.5), r"report\.settings\.x\[1\]"),
        (np.float64(1.5), r"report\.settings\.x\[1\]"),
        (np.zeros(2), r"report\.settings\.x\[1\]"),
        ({1: 2}, r"report\.settings\.x\[1\] key: got 1"),
    ],
)
def test_values_that_are_not_plain_json_are_refused_with_their_place(tmp_path, value, place):
    one = report()
    one["settings"]["x"] = [0.5, value]
    with pytest.raises(InputError, match=place):
        write(one, {}, folder=tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("breaks", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_report_and_nothing_else(tmp_path, monkeypatch, breaks):
    write(report(), {}, folder=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = report()
    other["settings"]["seed"] = 1

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, breaks, fail)
    with pytest.raises(InputError, match="No space left on device"):
        write(other, {}, folder=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_report_that_is_refused_makes_no_folder(tmp_path):
    one = report()
    one["rows"] = []
    with pytest.raises(InputError, match="at least one row"):
        write(one, {}, folder=tmp_path / "new")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InputError, match="folder"):
        write(report(), {}, folder=tmp_path / "run")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A small model as a .tflite file, and what it makes of one sample."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2, 3)), layers.Dense(3)])
    folder = tmp_path_factory.mktemp("model")
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [tf.TensorSpec((1, 2, 3), tf.float32)]
    archive.add_endpoint("serve", lambda x: model(x, training=False), input_signature=signature)
    archive.write_out(str(folder / "saved"), verbose=False)
    content = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved")).convert()
    (folder / "small model.tflite").write_bytes(content)
    return folder, model


@pytest.mark.parametrize(
    ("offset", "divisor"),
    [(-1.0, 4.0), ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 4.0, 8.0, 16.0, 32.0])],
)
def test_the_code_on_the_page_runs_the_file(model_file, monkeypatch, offset, divisor):
    folder, model = model_file
    one = report()
    one["data"] |= {"sample_shape": [2, 3], "scaling": {"kind": "unit", "offset": offset, "divisor": divisor}}
    one["rows"][-1]["file"] = "small model.tflite"
    _, html_path = write(one, {}, folder=folder)
    code = markup.unescape(re.search("<code>(.*?)</code>", html_path.read_text(), flags=re.DOTALL)[1])
    raw = np.arange(6.0).reshape(2, 3)
    names = {"raw": raw}
    monkeypatch.chdir(folder)
    exec(code, names)
    low, high = np.broadcast_to(np.ravel(offset), 6), np.broadcast_to(np.ravel(divisor), 6)
    scaled = ((raw.ravel() - low) / high).reshape(1, 2, 3).astype("float32")
    expected = model(scaled).numpy() * high.reshape(2, 3) + low.reshape(2, 3)
    np.testing.assert_allclose(names["rebuilt"], expected[0], rtol=1e-5, atol=1e-6)


def test_rounds_and_layers_of_cutting_are_shown():
    rounds = [
        {"number": 0, "move": "given", "params": 5544, "macs": 5000, "cut_error": 0.2, "error": 0.2, "held": True},
        {"number": 1, "move": "a < b", "params": 900, "macs": 800, "cut_error": 0.5, "error": 0.3, "held": False},
    ]
    layers_ = [
        {"path": "encoder/a", "kind": "Dense", "units": [8, 4], "parameters": [80, 40], "macs": [72, 36]},
        {"path": "encoder/b", "kind": "Dense", "units": [9, 0], "parameters": [90, 0], "macs": [81, 0]},
    ]
    shrinking = {
        "max_error_increase": 0.1,
        "encoding_dim": 4,
        "stopped": "it is enough",
        "validation_mse": [0.2, 0.2],
        "rounds": rounds,
        "layers": layers_,
    }
    text = page({**report(), "shrinking": shrinking}, {})
    for words in ("too much, taken back: a &lt; b", "1.50&times;", "8 to 4", "9 to none", "it is enough"):
        assert words in text
    assert "kept as 8 numbers each (4 in the shrunk autoencoder)" in text
    assert "round by round" not in page(report(), {})
