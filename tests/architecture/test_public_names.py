"""The public names and signatures; a change here is a line in CHANGELOG.md."""

import inspect

import pytest

import keras_aeprune as kap

SIGNATURES = {
    "Prune": "schedule, *, criterion, allocation, pattern, limits, include, exclude, "
    "on_unsupported, regrowth, state, several_fits, data, loss",
    "KeepSparse": "include, exclude",
    "sparsity_table": "model",
    "compress": "data, out, *, key, sparsity, encoding_dim, hidden_units, epochs, max_error_increase, "
    "seed, max_time, progress, model, max_size, max_latency, max_drop, target, loss, scale",
    "models.dense": "input_shape, encoding_dim, *, hidden_units, activation, output_activation, code_activation, "
    "batch_normalization, name",
    "models.AnomalyDetector": "autoencoder, *, scaling, error, standardize",
    "models.Autoencoder": "encoder, decoder, name, **kwargs",
    "models.Corruption": "kind, amount, *, clip, seed, **kwargs",
    "models.DenseTranspose": "units, activation, *, source, **kwargs",
    "models.Sampling": "weight, seed, *, features, free_nats, **kwargs",
    "models.autoencoder": "kind, data, encoding_dim, *, loss, optimizer, verbose, **options",
    "models.binarise": "x, seed",
    "models.build_in": "network, at_layer, encoding_dim, data, *, labels, test, epochs, "
    "learning_rate, batch_size, seed",
    "models.compare": "models, x_train, x_test, y_test, *, dense_epochs, seed",
    "models.convolutional": "input_shape, encoding_dim, *, filters, kernel_size, downsampling, "
    "upsampling, activation, "
    "output_activation, batch_normalization, name",
    "models.corrupt": "x, kind, *, amount, clip, seed",
    "models.denoising": "input_shape, encoding_dim, *, base, noise, corruption, clip, name, **options",
    "models.embed": "model, x, *, batch_size",
    "models.embedding_quality": "model, train, *, test, neighbours, samples, seed",
    "models.fine_tune": "model, x, y, *, test, validation, epochs, learning_rate, batch_size, seed, verbose",
    "models.for_inference": "model",
    "models.log_likelihood": "model, x, *, samples, batch_size, seed, progress",
    "models.on_raw_values": "model, scaling, *, invert, name",
    "models.output_for": "data, *, loss",
    "models.plot_embedding": "model, x, *, y, samples, seed, path",
    "models.posterior": "model, x, *, batch_size",
    "models.pretrain": "model, x, *, epochs, batch_size, learning_rate, noise, verbose",
    "models.recurrent": "input_shape, encoding_dim, *, units, cell, bidirectional, output_activation, name",
    "models.replace_front": "network, encoder, at_layer, data, *, labels, test, epochs, "
    "learning_rate, batch_size, seed",
    "models.sample": "model, n, *, seed",
    "models.sparse": "input_shape, encoding_dim, *, penalty, rate, target, hidden_units, activation, "
    "output_activation, name",
    "models.stacked": "input_shape, encoding_dim, *, hidden_units, tied, activation, output_activation, name",
    "models.unrolled": "model",
    "models.variational": "input_shape, encoding_dim, *, base, beta, free_nats, "
    "output_activation, name, **options",
    "models.with_head": "encoder, classes, *, hidden_units, dropout, frozen, name",
    "datasets.windows": "series, *, length, hop, key, labels, label, split, validation, test, scale, seed",
    "datasets.stitch": "windows, hop",
    "datasets.stream": "source, *, target, batch_size, seed, scale, validation, test",
    "regularizers.ActivityL1": "rate",
    "regularizers.ActivityKL": "rate, target",
    "shrinking.FoldableActivation": "activation, rate, **kwargs",
    "shrinking.activations": "model",
    "shrinking.alphas": "model",
    "shrinking.compensate": "model, small, traced, kept, data, *, ridge, batch_size, samples, keep_zeros",
    "shrinking.find_dead": "traced, data, *, tolerance",
    "shrinking.fine_tune": "model, data, *, epochs, learning_rate, schedule, batch_size, validation, "
    "teacher, distill, clip, callbacks, seed, keep_zeros, progress",
    "shrinking.fold": "model, threshold",
    "shrinking.merge": "model, *, only_smaller",
    "shrinking.mergeable": "model, *, only_smaller",
    "shrinking.mirrored": "model, path",
    "shrinking.paired": "model",
    "shrinking.plan": "model, criterion, *, keep, target_params, target_macs, target_bytes, "
    "max_error_increase, data, loss, scope, round_to, minimum, maximum, mirror, accept_normalization",
    "shrinking.prepare": "model, layers, *, rate",
    "shrinking.rank_layers": "model, data, *, by, loss, samples, seed, progress",
    "shrinking.reestimate_normalization": "model, data, *, batch_size, samples",
    "shrinking.register": "layer_class, rule",
    "shrinking.relu_states": "model, data",
    "shrinking.removable": "model",
    "shrinking.replaced": "model, names",
    "shrinking.shrink_until": "model, data, *, max_error_increase, target_params, target_macs, target_bytes, "
    "validation, criterion, layers, step, epochs, probe_epochs, final_epochs, learning_rate, batch_size, "
    "distill, round_to, minimum, mirror, directory, seed, progress",
    "shrinking.simplify": "model, data, *, rules, names, max_error_increase, loss, latency, progress",
    "shrinking.trace": "model, *, accept_normalization",
    "shrinking.without": "model, cuts, *, merge",
    "shrinking.without_dead": "model, data, *, tolerance",
    "sparsity.KeepSparse": "include, exclude",
    "sparsity.Pruner": "model, schedule, *, total_steps, criterion, allocation, pattern, limits, "
    "include, exclude, on_unsupported, regrowth, data, loss",
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
    "export.tflite": "model, path, *, quantize, data, seed, sparse, batch, unroll, parts, metadata, progress",
    "export.tflite_many": "model, paths, *, data, seed, on_failure, progress, **options",
    "export.onnx": "model, path, *, data, opset, batch, seed",
    "export.benchmark": "*paths, *, runs, threads, warmup, seed, signature",
    "export.profile": "path, *, runs, threads, progress",
    "export.energy": "path, *, signature",
    "export.time_on_phone": "path, *, serial, runs, threads, binary, progress",
    "export.micro_source": "path, *, name",
    "export.layer_errors": "model, path, *, data, samples, sensitive",
    "export.sensitivity": "model, data, *, calibration, samples, progress",
    "export.int8_quality": "model, path, data, *, limit, epochs, learning_rate, calibrations, samples, "
    "validation, seed, progress",
    "export.read_metadata": "path",
    "compression.pack": "model, path, *, bits, bias_bits, base, coder, progress",
    "compression.unpack": "path, out, *, base, max_bytes",
    "compression.cluster": "model, bits, *, data, epochs, learning_rate, gradient, batch_size, seed, progress",
    "compression.Cluster": "bits, *, init, gradient",
    "compression.kmeans": "values, clusters, *, init, iterations",
    "compression.distill": "student, teacher, data, *, alpha, temperature, match, epochs, batch_size, validation, "
    "callbacks, seed, progress",
    "compression.quantization_aware": "model, data, *, epochs, learning_rate, calibration, validation, "
    "batch_size, loss, on_unsupported, seed, progress",
    "report.compare": "models, data, out, *, key, scale, samples, runs, packed, energy, seed, progress",
    "report.inspect_file": "path, *, data",
    "regularizers.HoyerSquare": "rate",
    "datasets.load": "data, *, key, seed, scale, validation, test",
    "criteria.scores": "model, criterion, data, *, loss, include, samples, seed",
    "criteria.unit_scores": "model, criterion, data, *, loss, reduction, include, samples, seed",
    "criteria.register": "name, *, needs",
    "criteria.layer_entropies": "model, data, *, form, layers, batch_size",
    "calibration.get": "data, *, samples, seed, balanced",
    "calibration.mixed": "real, generated, fraction_generated, *, samples, seed",
    "calibration.train_generator": "x, *, encoding_dim, epochs, seed, kind",
    "calibration.generate": "generator, n, *, real, seed",
    "sparsity.Threshold": "threshold, *, begin_step, end_step, frequency, relative",
    "sparsity.iterative": "model, data, *, target, rounds, sparsities, epochs, dense_epochs, validation, "
    "limit, criterion, allocation, pattern, pruning, rewind, train, directory, seed, "
    "callbacks, progress, **fit",
    "sparsity.one_shot": "model, sparsity, data, *, criterion, rounds, allocation, pattern, limits, include, "
    "exclude, loss, compensate, progress",
    "sparsity.entropy_allocation": "model, data",
    "search.choose_criterion": "model, data, sparsity, *, validation, criteria, allocations, epochs, seed, "
    "pruning, **fit",
    "search.compare_calibration": "model, data, sparsity, *, sources, criterion, samples, seeds, validation, "
    "epochs, allocation, pruning, directory, progress, **fit",
    "search.encoding_width": "x, widths, tolerance, *, choose, method, kind, hidden_units, max_epochs, factor, "
    "seeds, directory, validation, max_bytes, max_latency, sparsity, criterion, progress, "
    "workers, seed, **options",
    "search.AutoencoderHyperModel": "data, *, kind, encoding_dim, depth, units, hidden_units, activation, "
    "learning_rate, batch_size, loss, sparsity, criterion, allocation, pruning, objective, measures, measure_on, "
    "quantize, max_params, seed, **options",
    "search.with_pruning": "build_model, sparsity, *, criterion, allocation, schedule, ramp, data, measures, "
    "**options",
    "search.Hyperband": "hypermodel, objective, *, max_epochs, factor, hyperband_iterations, seed, directory, "
    "project_name, overwrite, max_failures, keep, progress, tensorboard, **kwargs",
    "search.hyperband_plan": "max_epochs, factor, *, iterations, values",
    "search.launch": "make_tuner, *fit_args, *, workers, threads, restarts, **fit_kwargs",
    "search.evaluate": "task, config, rung, checkpoint, save_to",
    "search.measure": "model, names, *, quantize, data, runs",
    "search.pareto": "rows, objectives",
    "search.pca_curve": "x, widths, *, validation",
    "search.screen": "x, widths, *, validation, hidden_units, activation, output_activation, epochs, batch_size, "
    "learning_rate, seeds, say",
    "regularizers.WeightPenalty": "l1, lp, p",
    "regularizers.WeightEntropy": "rate, maximize, *, bins",
    "regularizers.ActivationEntropy": "rate, minimize, *, bins",
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
