import gzip
import json
import re
from html.parser import HTMLParser

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_aeprune._plots import _COLOURS, _OTHER, INK
from keras_aeprune._validation import InputError
from keras_aeprune.export.convert import ConversionError
from keras_aeprune.report import versus
from keras_aeprune.report.style import STYLE
from keras_aeprune.report.versus import compare

X = np.random.default_rng(0).random((40, 36)).astype("float32")


def autoencoder(width, name):
    keras.utils.set_random_seed(width)
    return keras.Sequential([keras.Input((36,)), layers.Dense(width, name="code"), layers.Dense(36)], name=name)


def lite(path, scale):
    weights = np.eye(36, dtype="float32") * scale
    specs = [tf.TensorSpec((1, 36), name="x")]
    concrete = tf.function(lambda x: x @ weights, input_signature=specs).get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    return path


def quiet(models, data=None, out="report", **options):
    return compare(models, data, out, **{"runs": 0, "progress": False, **options})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two files and a Keras model, compared with everything there is."""
    folder = tmp_path_factory.mktemp("made")
    exact, half = lite(folder / "exact.tflite", 1.0), lite(folder / "half <b>.tflite", 0.5)
    packed = folder / "packed.bin"
    packed.write_bytes(bytes(100))
    return compare(
        [exact, half, autoencoder(9, "wide")],
        X,
        folder / "out",
        runs=3,
        packed={"half <b>.tflite": packed},
        energy={"exact.tflite": 12.5},
        progress=False,
    )


def rows(found):
    return {row["label"]: row for row in found.report["rows"]}


def test_errors_sizes_and_ratios_by_hand(made, tmp_path):
    exact, half, wide = rows(made).values()
    assert exact["error"] == 0.0
    assert half["error"] == pytest.approx(np.mean(np.square(X / 2, dtype=np.float64)), rel=1e-6)
    model = autoencoder(9, "again")
    assert wide["error"] == pytest.approx(np.mean((model.predict(X, verbose=0) - X) ** 2.0), rel=1e-5)
    assert (exact["parameters"], exact["nonzero"], exact["macs"]) == (1296, 36, 1296)
    path = made.folder.parent / "exact.tflite"
    assert exact["bytes"] == path.stat().st_size
    assert exact["ratios"]["nnz"] == 36.0
    # 36 values with 36 zeros between any two: 36 entries of 40 bits
    assert exact["ratios"]["stored_sparse"] == 4 * 1296 / 180
    assert exact["ratios"]["stored_coded"] == 4 * 1296 / len(gzip.compress(path.read_bytes(), 9, mtime=0))
    assert (exact["ratios"]["coded_by"], half["ratios"]["coded_by"]) == ("gzip", "packed")
    assert half["ratios"]["stored_coded"] == 4 * 1296 / 100
    assert wide["ratios"]["nnz"] == 1296 / (2 * 36 * 9 + 45)
    assert wide["ratios"]["coded_by"] == "gzip of the weights"
    weights = gzip.compress(b"".join(weight.tobytes() for weight in model.get_weights()), 9)
    assert wide["ratios"]["stored_coded"] == pytest.approx(4 * 1296 / len(weights), rel=0.01)
    assert exact["energy"] == 12.5


def test_all_are_timed_in_turns_and_keras_models_as_files(made):
    latency = made.report["measured_on_this_machine"]["latency"]
    assert [entry["name"] for entry in latency] == [row["label"] for row in made.report["rows"]]
    assert {entry["runs"] for entry in latency} == {3}
    assert [row["median_us"] for row in made.report["rows"]] == [entry["median_us"] for entry in latency]
    assert rows(made)["wide"]["note"].startswith("timed as a float32 .tflite file")
    assert rows(made)["wide"]["bytes"] > 4 * 693
    assert rows(made)["exact.tflite"]["note"] == ""


def test_fronts_are_those_of_size_and_of_time(made):
    for cost in ("bytes", "median_us"):
        best = min(made.report["rows"], key=lambda row: (row[cost], row["error"]))
        assert cost in best["front"]
        assert cost in rows(made)["exact.tflite"]["front"]  # it makes no error


class Parser(HTMLParser):
    void = ("meta", "br", "path", "use", "image", "circle", "line", "rect", "hr", "img", "link", "stop")

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.wrong, self.links, self.text, self.seen = [], [], [], [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in self.void:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_and_fetches_nothing(made):
    text = made.files["report.html"].read_text(encoding="utf-8")
    parser = Parser()
    parser.feed(text)
    assert (parser.wrong, parser.open) == ([], [])
    assert all(link.startswith(("#", "data:image/png")) for link in parser.links)
    assert not {"script", "link", "iframe", "object", "b"} & parser.seen
    assert "url(http" not in text
    assert "@import" not in text
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in text
    assert "prefers-color-scheme: dark" in text
    said = " ".join(parser.text)
    for words in (
        "half <b>.tflite",
        "nnz",
        "stored, sparse",
        "stored, coded",
        "packed",
        "energy proxy",
        "Every layer of",
    ):
        assert words in said
    assert text.count("<svg") == 3  # reconstructions, error against size, error against time
    assert len(re.findall(r'\sid="([^"]+)"', text)) == len(set(re.findall(r'\sid="([^"]+)"', text)))


def test_the_printed_table_and_the_json_hold_the_same(made):
    assert json.loads(made.files["report.json"].read_text()) == made.report
    text = str(made)
    for words in ("exact.tflite", "stored, coded", "packed", "energy proxy", "report.html"):
        assert words in text
    assert len(made.inspections) == len(made.report["models"]) == 3


def test_models_that_are_no_autoencoders_differ_from_the_first(tmp_path):
    first = keras.Sequential([keras.Input((36,)), layers.Dense(2, name="out")], name="first")
    other = keras.models.clone_model(first)
    other.set_weights([weight + 0.1 for weight in first.get_weights()])
    found = quiet({"first": first, "other": other}, X, tmp_path)
    expected = first.predict(X, verbose=0).astype(np.float64)
    away = np.sqrt(np.mean((other.predict(X, verbose=0) - expected) ** 2)) / expected.std()
    assert found.report["error"]["kind"] == "difference"
    assert [row["error"] for row in found.report["rows"]] == pytest.approx([0.0, away], rel=1e-5)


def test_labels_give_the_fraction_of_wrong_answers(tmp_path):
    model = keras.Sequential([keras.Input((36,)), layers.Dense(4, name="out")])
    answers = model.predict(X, verbose=0).argmax(axis=1)
    answers[:10] = (answers[:10] + 1) % 4
    found = quiet([model], (X, answers), tmp_path)
    assert found.report["error"] == {"kind": "wrong", "samples": 40}
    assert found.report["rows"][0]["error"] == 0.25


def test_a_model_that_cannot_be_converted_is_compared_without_times_and_that_is_said(tmp_path, monkeypatch):
    def no(model, path, data):
        raise ConversionError("LiteRT has\nno such operation")

    monkeypatch.setattr("keras_aeprune.report.versus.tflite", no)
    found = quiet([autoencoder(3, "a")], X, tmp_path, runs=1)
    (row,) = found.report["rows"]
    assert row["note"] == "not timed, as it could not be converted: LiteRT has no such operation"
    assert "error" in row and not {"bytes", "median_us"} & set(row) and row["front"] == []
    assert found.report["measured_on_this_machine"]["latency"] == []
    assert f"a: {row['note']}." in found.files["report.html"].read_text()


def test_at_most_five_models_are_drawn(tmp_path, monkeypatch):
    drawn = []
    real = versus.reconstructions
    monkeypatch.setattr(versus, "reconstructions", lambda rows, shape: drawn.append(rows) or real(rows, shape))
    quiet({f"m{i}": autoencoder(2, f"m{i}") for i in range(6)}, X, tmp_path)
    assert [list(rows) for rows in drawn] == [["original", "m0", "m1", "m2", "m3", "m4"]]
    np.testing.assert_array_equal(drawn[0]["original"], X[:10])


def test_samples_of_another_shape_but_size_are_reshaped_and_others_refused(tmp_path):
    flat = quiet([autoencoder(3, "a")], X, tmp_path / "flat")
    images = quiet([autoencoder(3, "a")], X.reshape(40, 6, 6), tmp_path / "images")
    assert images.report["rows"][0]["error"] == pytest.approx(flat.report["rows"][0]["error"])
    with pytest.raises(InputError, match=r"got samples of shape \(35,\), allowed for a: \(36,\)"):
        quiet([autoencoder(3, "a")], X[:, :35], tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_samples_are_drawn_with_the_seed(tmp_path):
    model = autoencoder(3, "a")
    chosen = np.sort(np.random.default_rng(5).permutation(40)[:7])
    found = quiet([model], X, tmp_path, samples=7, seed=5)
    part = quiet([model], X[chosen], tmp_path)
    assert found.report["rows"][0]["error"] == part.report["rows"][0]["error"]
    assert found.report["data"]["notes"] == ["7 of 40 samples, drawn with seed 5"]


def test_a_second_comparison_replaces_the_first_whole(tmp_path):
    quiet([autoencoder(3, "first")], None, tmp_path)
    quiet([autoencoder(3, "second")], None, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    for path in tmp_path.iterdir():
        assert "first: " not in path.read_text()
        assert "second" in path.read_text()


def test_another_report_in_the_folder_is_not_touched(tmp_path):
    for content in ('{"rows": []}', "no json"):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(InputError, match="not of a comparison"):
            quiet([autoencoder(3, "a")], None, tmp_path)
        assert (tmp_path / "report.json").read_text() == content


def test_a_failure_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    quiet([autoencoder(3, "first")], None, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = tmp_path.parent / "broken.tflite"
    broken.write_bytes(b"\x1c\0\0\0TFL3")
    with pytest.raises(InputError, match="damaged"):
        quiet([autoencoder(3, "second"), broken], None, tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left"):
        quiet([autoencoder(3, "second")], None, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_stands_for_its_models_and_equal_names_are_told_apart(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        lite(tmp_path / name / "model.tflite", 1.0)
        (tmp_path / name / "notes.txt").write_text("no model")
    model = autoencoder(3, "m")
    found = quiet([tmp_path / "one", str(tmp_path / "two"), model, model], None, tmp_path / "out")
    assert list(rows(found)) == ["model.tflite", "two/model.tflite", "m", "m (2)"]


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ([], {}, "models: got none"),
        ([3], {}, "allowed: Keras models and paths"),
        ({"a": 3}, {}, "allowed: Keras models and paths"),
        (["no.keras"], {}, "nothing is at"),
        (["model.onnx"], {}, "ends in"),
        ({"a": autoencoder(3, "a")}, {"packed": {"b": "x"}}, "allowed: the labels a"),
        ({"a": autoencoder(3, "a")}, {"samples": 0}, "samples"),
        ({"a": autoencoder(3, "a")}, {"runs": -1}, "runs"),
        ({"a": autoencoder(3, "a")}, {"data": X, "scale": "unit"}, "scale"),
        ({"a": autoencoder(3, "a")}, {"data": np.full((3, 36), np.nan)}, "finite"),
        ({"a": autoencoder(3, "a")}, {"data": (X, X[:3])}, "3 labels for 40"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_nothing_is_left(tmp_path, models, options, message):
    with pytest.raises(InputError, match=message):
        quiet(models, options.pop("data", None), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_words_and_marks_can_be_read_in_light_and_in_dark():
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in STYLE.split("@media (prefers", 1))
    assert {"ink", "muted", "paper"} <= set(light) & set(dark)
    for scheme in (light, dark):
        for paper in ("paper", "page", "mark"):
            assert contrast(scheme["ink"], scheme[paper]) >= 7
            assert contrast(scheme["muted"], scheme[paper]) >= 4.5
        for _, colour in (*_COLOURS, ((), _OTHER)):
            assert contrast(colour, scheme["paper"]) >= 3 or colour == INK
