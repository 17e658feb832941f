"""The public names and signatures; a change here is a line in CHANGELOG.md."""

import inspect

import pytest

import keras_aeprune as kap

SIGNATURES = {
    "Prune": "schedule, *, criterion, allocation, pattern, limits, include, exclude, on_unsupported, "
    "regrowth, state, several_fits",
    "KeepSparse": "include, exclude",
    "sparsity_table": "model",
    "compress": "data, out, *, key, sparsity, encoding_dim, hidden_units, epochs, seed, max_time, progress",
    "models.dense": "input_shape, encoding_dim, *, hidden_units, activation, output_activation, name",
    "sparsity.KeepSparse": "include, exclude",
    "sparsity.Pruner": "model, schedule, *, total_steps, criterion, allocation, pattern, limits, include, "
    "exclude, on_unsupported, regrowth",
    "sparsity.release": "model",
    "sparsity.sensitivity_map": "model, data, *, sparsities, criterion, loss, path, progress",
    "sparsity.prune_low_magnitude": "to_prune, pruning_schedule, block_size, block_pooling_type, pruning_policy, "
    "sparsity_m_by_n, criterion, **kwargs",
    "sparsity.strip_pruning": "model",
    "sparsity.PruneLowMagnitude": "layer, pruning_schedule, block_size, block_pooling_type, sparsity_m_by_n, "
    "criterion, **kwargs",
    "schedules.relative": "schedule, sparsity, *, begin, end, unit, updates, **arguments",
    "schedules.plot": "schedule, total_steps, *, path",
    "sparsity.register_layer": "layer_class, *kernels",
    "schedules.PolynomialDecay": "initial_sparsity, final_sparsity, begin_step, end_step, power, frequency",
    "schedules.ConstantSparsity": "target_sparsity, begin_step, end_step, frequency",
    "export.tflite": "model, path, *, quantize, data, seed",
    "datasets.load": "data, *, key, seed, scale, validation, test",
}


def written(function):
    text, keyword_only = [], False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            text.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        text.append(stars + name)
    return ", ".join(text)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature_is_as_published(name):
    thing = kap
    for part in name.split("."):
        thing = getattr(thing, part)
    assert written(thing) == SIGNATURES[name]


def test_every_name_in_all_exists():
    for name in kap.__all__:
        thing = getattr(kap, name)
        for inner in getattr(thing, "__all__", []):
            assert hasattr(thing, inner), f"{name}.{inner}"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'prune'; known: .*Prune"):
        kap.prune  # noqa: B018
