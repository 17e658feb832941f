"""Comparing calibration sources: ranks and losses beside real samples, seed by seed."""

import json
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers
from scipy import stats
from sklearn.datasets import load_digits

from keras_aeprune import calibration, criteria, datasets, models
from keras_aeprune._validation import InputError
from keras_aeprune.calibration import generator, vae
from keras_aeprune.search import calibration_trial
from keras_aeprune.search.calibration_sources import compare_calibration
from keras_aeprune.search.calibration_table import CalibrationRow, CalibrationTable, Spread
from keras_aeprune.search.calibration_trial import Draws, Trial
from keras_aeprune.sparsity import Pruner, release

DIGITS = (load_digits().data / 16).astype("float32")
LABELS = load_digits().target
TRAIN, TEST = DIGITS[:400], DIGITS[400:600]
VAE = calibration.Vae(encoding_dim=4, epochs=1)
SOURCES = ("real", "uniform_noise", VAE, (VAE, 0.25))
OPTIONS = {"validation": TEST, "samples": 64, "seeds": 2, "batch_size": 64, "progress": False}


def autoencoder():
    keras.utils.set_random_seed(0)
    net = models.dense((64,), 8, hidden_units=(16,))
    net.compile(keras.optimizers.Adam(3e-3), "mse")
    net.optimizer.build(net.trainable_variables)  # else `fit` traces its step twice
    net.fit(TRAIN, TRAIN, epochs=5, batch_size=64, verbose=0)
    return net


def classifier(width=10):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((64,)), layers.Dense(width, activation="softmax")])
    net.compile("adam", "sparse_categorical_crossentropy")
    return net


def state(net):
    return [v.numpy() for v in (*net.variables, *net.optimizer.variables)]


@pytest.fixture(scope="module")
def net():
    return autoencoder()


@pytest.fixture(scope="module")
def compared(net, tmp_path_factory):
    """Four sources with two criteria, the folder, the generators' seeds, the model before and after it.

    The generators keep their first weights: how they are trained is no question of this room.
    """
    folder, before, trained = tmp_path_factory.mktemp("cells") / "run", state(net), []
    real_one = vae.train_generator

    def counted(x, **options):
        trained.append(options["seed"])
        return real_one(x, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "train_generator", counted)
        patch.setattr(generator, "_train", lambda *arguments: None)
        kinds = ("wanda", "gradient_magnitude")
        table = compare_calibration(net, TRAIN, 0.8, sources=SOURCES, criterion=kinds, directory=folder, **OPTIONS)
    return table, folder, trained, before, state(net)


def test_ranks_are_spearmans_with_ties_by_kernel_and_over_all():
    rng = np.random.default_rng(0)
    one = [rng.integers(0, 5, (6, 4)).astype("float32"), rng.random((10, 3), "float32")]
    other = [array + rng.integers(0, 3, array.shape) for array in one]
    found = calibration_trial.correlations(*(calibration_trial.standard_ranks(scores) for scores in (one, other)))
    kernels = [stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)]
    assert found["by_kernel"] == pytest.approx((24 * kernels[0] + 30 * kernels[1]) / 54)
    together = [np.concatenate([array.ravel() for array in scores]) for scores in (one, other)]
    assert found["overall"] == pytest.approx(stats.spearmanr(*together).statistic)


def test_a_kernel_whose_scores_are_all_equal_counts_as_zero():
    one, other = [np.arange(4.0), np.arange(4.0)], [np.ones(4), np.arange(4.0)]
    ranks = [calibration_trial.standard_ranks(scores) for scores in (one, other)]
    assert calibration_trial.correlations(*ranks)["by_kernel"] == pytest.approx(0.5)


def test_every_source_has_a_row_by_criterion_and_the_controls_come_last(compared):
    table = compared[0]
    generator = "vae(encoding_dim=4, epochs=1)"
    names = ["real", "uniform_noise", generator, f"0.75 real + 0.25 {generator}"]
    assert [row.source for row in table.rows] == [*names, *names, "no data", "no data"]
    assert [row.criterion for row in table.rows[-2:]] == ["magnitude", "random"]
    assert {row.criterion for row in table.rows[:4]} == {"wanda"}
    assert all(len(row.tuned.values) == 2 for row in table.rows)
    assert table.rows[-1].overall is None
    assert not table.skipped


def test_real_samples_are_the_ceiling_below_one_and_noise_is_far_from_it(compared):
    table = compared[0]
    for kind in ("wanda", "gradient_magnitude"):
        ceiling = table.row("real", kind).overall.mean
        assert table.row("uniform_noise", kind).overall.mean < ceiling - 0.01
        assert 0.8 < ceiling < 0.9999
    magnitude, random = (next(r for r in table.rows if r.criterion == name) for name in ("magnitude", "random"))
    assert magnitude.pruned.mean < random.pruned.mean


def test_the_given_model_is_untouched(net, compared):
    for one, other in zip(*compared[3:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert release(net) == 0


def test_a_generator_is_trained_once_a_seed_for_all_criteria_and_mixtures(compared):
    assert compared[2] == [0, 1]


def test_a_cell_is_what_pruning_and_fitting_by_hand_gives(net, compared):
    seed = 1
    order = np.random.default_rng([seed, 1]).permutation(len(TRAIN))
    reference, rest = TRAIN[order[:64]], TRAIN[np.sort(order[64:])]
    noise = calibration.source("uniform_noise").draw(64, real=calibration.get(rest), seed=seed).x
    a, b = (criteria.scores(net, "wanda", x) for x in (reference, noise))
    row = compared[0].row("uniform_noise", "wanda")
    flat = [np.concatenate([array.ravel() for array in scores.values()]) for scores in (a, b)]
    assert row.overall.values[seed] == pytest.approx(stats.spearmanr(*flat).statistic, abs=1e-6)

    twin = keras.models.clone_model(net)
    twin.set_weights(net.get_weights())
    twin.compile(keras.optimizers.Adam(3e-3), "mse")
    Pruner(twin, criterion="wanda", data=noise, allocation="global").update(0.8)
    losses = [float(np.mean((twin.predict(TEST, verbose=0) - TEST) ** 2))]
    keras.utils.set_random_seed(seed)
    twin.fit(TRAIN, TRAIN, epochs=1, batch_size=64, verbose=0)
    losses.append(float(np.mean((twin.predict(TEST, verbose=0) - TEST) ** 2)))
    assert [row.pruned.values[seed], row.tuned.values[seed]] == pytest.approx(losses, rel=1e-3)


def test_the_reference_is_set_aside_for_every_source():
    real = calibration.get(np.arange(100.0).reshape(50, 2))
    draws = Draws(SimpleNamespace(real=real, samples=20), 3)
    assert len(draws.reference) == 20
    both = np.concatenate([draws.reference.x, draws.rest.x])
    np.testing.assert_array_equal(np.sort(both[:, 0]), real.x[:, 0])


def test_a_killed_comparison_goes_on_and_more_seeds_are_added(net, compared, tmp_path, monkeypatch):
    options = {**OPTIONS, "sources": ("uniform_noise",), "criterion": "wanda", "directory": tmp_path}
    real_one, calls, limit = Trial.losses, [], 4

    def counted(self, *args):
        calls.append(1)
        if len(calls) > limit:
            raise KeyboardInterrupt
        return real_one(self, *args)

    monkeypatch.setattr(Trial, "losses", counted)
    before = state(net)
    with pytest.raises(KeyboardInterrupt):
        compare_calibration(net, TRAIN, 0.8, **options)
    for one, other in zip(before, state(net), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(list(tmp_path.glob("seed-*.json"))) == 4
    (tmp_path / ".unfinished-1-seed-9.json").write_text("{")
    limit = 100
    again = compare_calibration(net, TRAIN, 0.8, **options)
    assert len(calls) == 5 + 2  # 1 source and 2 controls with 2 seeds, 4 of them found
    assert not list(tmp_path.glob(".unfinished*"))
    for row in again.rows:
        whole = next(r for r in compared[0].rows if (r.source, r.criterion) == (row.source, row.criterion))
        assert row.overall == whole.overall
        assert row.tuned.values == pytest.approx(whole.tuned.values, rel=1e-6)
    more = compare_calibration(net, TRAIN, 0.8, **{**options, "seeds": 3})
    assert len(calls) == 7 + 3
    assert more.rows[0].tuned.values[:2] == again.rows[0].tuned.values


def test_a_folder_of_another_comparison_or_with_damage_is_refused(net, compared, tmp_path):
    options = {**OPTIONS, "sources": ("real",), "criterion": "wanda"}
    with pytest.raises(InputError, match=r"another comparison \(sparsity was 0.8 and is 0.7 now\)"):
        compare_calibration(net, TRAIN, 0.7, directory=compared[1], **options)
    with pytest.raises(InputError, match=r"another comparison \(data was"):
        compare_calibration(net, TRAIN[1:], 0.8, directory=compared[1], **options)
    shutil.copytree(compared[1], tmp_path / "copy")
    for cell in (tmp_path / "copy").glob("seed-*.json"):
        cell.write_text('{"cell": {}}')
    with pytest.raises(InputError, match=r"cannot be read .*no measurement"):
        compare_calibration(net, TRAIN, 0.8, directory=tmp_path / "copy", **options)


def test_the_model_is_given_back_after_an_error(net, monkeypatch):
    before = state(net)

    def broken(self, *args):
        self.model.layers[-1].weights[0].assign_add(self.model.layers[-1].weights[0])
        raise RuntimeError("broken")

    monkeypatch.setattr(Trial, "losses", broken)
    with pytest.raises(RuntimeError, match="broken"):
        compare_calibration(net, TRAIN, 0.8, sources=["real"], **OPTIONS)
    for one, other in zip(before, state(net), strict=True):
        np.testing.assert_array_equal(one, other)
    assert release(net) == 0


def test_labels_of_a_dataset_are_no_targets_and_its_validation_split_is_used(net):
    data = datasets.load("digits", scale="unit").flat
    options = {"samples": 64, "seeds": 2, "batch_size": 512, "progress": False}
    table = compare_calibration(net, data, 0.5, sources=["gaussian_noise"], criterion="fisher", **options)
    expected = np.mean((net.predict(data.x_validation, verbose=0) - data.x_validation) ** 2)
    assert table.dense_loss == pytest.approx(float(expected), rel=1e-5)


def test_what_a_model_cannot_take_is_listed_with_the_reason(capsys):
    options = {**OPTIONS, "validation": None, "progress": True}
    sources = ["decoder", "uniform_noise"]
    table = compare_calibration(classifier(), (TRAIN, LABELS[:400]), 0.5, sources=sources, **options)
    assert [row.source for row in table.rows] == ["uniform_noise", "no data", "no data"]
    [(source, kind, reason)] = table.skipped
    assert (source, kind) == ("decoder", "")
    assert "decoder" in reason
    assert "skipped: decoder: " in str(table)
    lines = capsys.readouterr().err.splitlines()
    assert any("calibration: decoder skipped: " in line for line in lines)
    assert "calibration: 2 of 2 seeds" in lines[-1]
    with pytest.raises(InputError, match="none that can be tried here"):
        compare_calibration(classifier(), (TRAIN, LABELS[:400]), 0.5, sources=["decoder"], **options)


def test_samples_without_targets_serve_activations_but_no_gradients():
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((64,)), layers.Dense(1)])
    net.compile("sgd", "mse")
    given = (TRAIN, TRAIN[:, :3].sum(axis=1))
    options = {**OPTIONS, "validation": None, "sources": ["gaussian_noise"]}
    table = compare_calibration(net, given, 0.5, criterion=("wanda", "gradient_magnitude"), **options)
    assert table.row("gaussian_noise").criterion == "wanda"
    assert [entry[:2] for entry in table.skipped] == [("gaussian_noise", "gradient_magnitude")]
    assert "without targets" in table.skipped[0][2]


def test_codes_for_words_take_no_fractions():
    keras.utils.set_random_seed(0)
    words = np.random.default_rng(0).integers(0, 9, (40, 6))
    stack = [layers.Embedding(9, 4), layers.Flatten(), layers.Dense(2, activation="softmax")]
    net = keras.Sequential([keras.Input((6,), dtype="int32"), *stack])
    net.compile("sgd", "sparse_categorical_crossentropy")
    options = {"sources": ["shuffled_pixels", "uniform_noise"], "samples": 8, "seeds": 2, "progress": False}
    table = compare_calibration(net, (words, words[:, 0] % 2), 0.5, **options)
    assert [row.source for row in table.rows][:2] == ["shuffled_pixels", "no data"]
    assert "allowed: whole numbers" in table.skipped[0][2]


def by_hand():
    exact = Spread((0.5, 0.7))
    rows = (
        CalibrationRow("real", "fisher", exact, exact, Spread((0.01234, 0.01236)), Spread((1.0, 3.0)), 2.0),
        CalibrationRow("vae", "fisher", exact, exact, Spread((0.02, float("nan"))), Spread((1.0, 2.0)), 2.0),
        CalibrationRow("no data", "magnitude", None, None, Spread((0.02, 0.02)), Spread((1.5, 1.5)), 1.25),
    )
    return CalibrationTable(rows, (("cut", "", "no such layer"),), 0.9, 64, 2, 1, 0.01)


def test_it_prints_a_table_and_is_plain_json_values():
    head = "criterion  source     rank by kernel      rank overall        loss, pruned  loss, fine-tuned  seconds"
    assert str(by_hand()).splitlines() == [
        "sparsity 0.9, 64 samples, fine-tuned for 1 epoch; mean +- standard deviation over 2 seeds",
        "rank: Spearman's correlation of the scores with those from other real samples; loss: on validation data, "
        "dense 0.01",
        head,
        "-" * len(head),
        "fisher     real     0.6000 +- 0.1414  0.6000 +- 0.1414  0.01235 +- 0.00001    2.000 +- 1.414      2.0",
        "fisher     vae      0.6000 +- 0.1414  0.6000 +- 0.1414          nan +- nan    1.500 +- 0.707      2.0",
        "magnitude  no data                 -                 -  0.02000 +- 0.00000    1.500 +- 0.000      1.2",
        "skipped: cut: no such layer",
    ]
    found = by_hand().to_dict()
    json.dumps(found, allow_nan=False)
    assert found["rows"][0]["tuned"] == {"mean": 2.0, "deviation": pytest.approx(2**0.5), "values": [1.0, 3.0]}
    assert found["skipped"] == [{"source": "cut", "criterion": "", "reason": "no such layer"}]
    with pytest.raises(InputError, match="allowed: real with fisher, vae with fisher"):
        by_hand().row("decoder")


def test_the_picture_has_a_panel_for_ranks_and_for_both_losses(compared, tmp_path):
    picture = compared[0].plot(tmp_path / "sources.png")
    assert (tmp_path / "sources.png").stat().st_size > 10_000
    titles = [axes.get_title(loc="left") for axes in picture.axes]
    assert titles == ["rank correlation with real samples", "loss after pruning to 0.8", "loss after 1 more epoch"]
    marks = [line for line in picture.axes[0].lines if line.get_label() == "wanda"]
    means = [row.overall.mean for row in compared[0].rows if row.criterion == "wanda"]
    np.testing.assert_allclose(marks[0].get_xdata(), means)
    assert by_hand().plot() is not None  # values that are not finite are left out
    with pytest.raises(InputError, match="path: got 'a.bmp'"):
        compared[0].plot("a.bmp")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seeds": 1}, "seeds: got 1"),
        ({"samples": 201}, "samples: got 201, allowed: at most 200, half of the 400"),
        ({"epochs": 0}, "epochs: got 0"),
        ({"criterion": "magnitude"}, r"criterion: got Magnitude.*look at data"),
        ({"criterion": ()}, "criterion: got .*at least one"),
        ({"criterion": "magic"}, "criterion: got 'magic'"),
        ({"sources": "real"}, "several sources"),
        ({"sources": ()}, "at least one"),
        ({"sources": ["magic"]}, "calibration source: got 'magic'"),
        ({"sources": ["0.5 real + 0.6 vae"]}, "add up to 1"),
        ({"sources": [("vae", 0.0)]}, "fraction that a source makes: got 0.0"),
        ({"pruning": {"data": TRAIN}}, r"pruning\['data'\]: got"),
        ({"validation_data": 3}, "validation_data: got 3"),
        ({"validation": TEST[:, :9]}, r"got samples of shape \(9,\)"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(net, options, text):
    with pytest.raises(InputError, match=text) as caught:
        compare_calibration(net, TRAIN, 0.5, **{**OPTIONS, **options})
    assert "\n" not in str(caught.value)


def test_other_data_and_models_that_are_not_compiled_are_refused(net, tmp_path):
    with pytest.raises(InputError, match="sparsity: got 0"):
        compare_calibration(net, TRAIN, 0, **OPTIONS)
    with pytest.raises(InputError, match="5 or more"):
        compare_calibration(net, TRAIN[:4], 0.5, samples=1)
    with pytest.raises(InputError, match="not compiled"):
        compare_calibration(models.dense((64,), 8), TRAIN, 0.5)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="a new or empty folder"):
        compare_calibration(net, TRAIN, 0.5, directory=tmp_path, **OPTIONS)
