from keras_aeprune.pipeline.comparison import _curve_widths


def test_widths_of_the_curve_go_from_one_to_all_but_one():
    widths = sorted(_curve_widths(64))
    assert widths[0] == 1
    assert widths[-1] == 63
    assert len(widths) <= 24
    assert all(isinstance(width, int) for width in widths)


def test_two_features_have_one_width():
    assert _curve_widths(2) == {1}


def test_the_report_names_its_layers_with_what_was_asked(finished):
    for layer in finished.report["layers"]:
        assert layer["pattern"] == "unstructured"
        assert abs(layer["asked"] - layer["reached"]) < 1 / layer["weights"]


def test_the_nonzero_count_is_parameters_less_zeros(finished):
    row = next(row for row in finished.report["rows"] if row["name"] == "pruned")
    assert row["parameters"] - row["nonzero"] == sum(layer["zeros"] for layer in finished.report["layers"])
