"""Cuts and trains a network with torch-pruning, where torch is: python _torch_worker.py FOLDER.

FOLDER has job.json, weights.npz, probe.npz (samples and what Keras says of them) and images.npy; cut.npz,
said.json and outputs.npz (of the cut network for the same samples) are written beside them.
"""

import copy
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import nn

ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid, "linear": lambda x: x}
SEEN = 2048  # images whose gradients Taylor's importance is made of
BISECTIONS = 9  # of the share of units; multiples of 8 make it no finer than some thousandths


class Net(nn.Module):
    """The steps of _torch_pruning.steps_of."""

    def __init__(self, steps, arrays):
        super().__init__()
        self.steps = steps
        self.layers, self.spread = nn.ModuleList(), nn.ParameterDict()
        for number, (step, weight, bias) in enumerate(zip(steps, arrays[::2], arrays[1::2], strict=True)):
            weight, bias = torch.from_numpy(weight), torch.from_numpy(bias)
            role, kernel = step["role"], weight.shape[2:]
            if role == "linear":
                layer = nn.Linear(weight.shape[1], weight.shape[0])
            elif role in ("conv", "flattened"):
                layer = nn.Conv2d(weight.shape[1], weight.shape[0], kernel, step["stride"])
            else:
                layer = nn.ConvTranspose2d(
                    weight.shape[0], weight.shape[1], kernel, step["stride"], bias=role == "transposed"
                )
            layer.weight.data = weight
            if role == "spread":
                self.spread[str(number)] = nn.Parameter(bias)
            else:
                layer.bias.data = bias
            self.layers.append(layer)

    def forward(self, x):
        for number, (step, layer) in enumerate(zip(self.steps, self.layers, strict=True)):
            before = step["role"] == "conv"
            if before and any(step["pad"]):
                x = F.pad(x, step["pad"])
            x = layer(x)
            if not before and any(step["pad"]):
                x = F.pad(x, step["pad"])  # negative: a crop
            if str(number) in self.spread:
                x = x + self.spread[str(number)]
            x = ACTIVATIONS[step["activation"]](x)
        return x

    def arrays(self):
        found = []
        for number, (step, layer) in enumerate(zip(self.steps, self.layers, strict=True)):
            bias = self.spread[str(number)] if step["role"] == "spread" else layer.bias
            found += [value.detach().numpy() for value in (layer.weight, bias)]
        return found


def size(net):
    return sum(value.numel() for value in net.parameters())


def read(path):
    with np.load(path, allow_pickle=False) as file:
        return [file[f"arr_{number}"] for number in range(len(file.files))]


def loss_of(net, x):
    with torch.no_grad():
        return float(np.mean([float(F.mse_loss(net(part), part)) for part in x.split(1000)]))


def trained(net, x, epochs, job, seed, *, decay, pruner=None):
    """Adam as Keras has it; with a pruner that regularizes, its term is added to the gradients."""
    optimizer = torch.optim.Adam(net.parameters(), lr=job["rate"], eps=1e-7)
    steps = epochs * -(-len(x) // job["batch size"])
    scale = (lambda step: (1 + np.cos(np.pi * min(step / steps, 1))) / 2) if decay else (lambda step: 1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(job["batch size"]):
            batch = x[rows]
            optimizer.zero_grad()
            F.mse_loss(net(batch), batch).backward()
            if pruner is not None:
                pruner.regularize(net)
            optimizer.step()
            schedule.step()


def pruner_of(route, net, x, share):
    """torch-pruning's pruner of a route, ready to take `share` of the units that are ranked together."""
    importance = (
        tp.importance.GroupTaylorImportance() if route == "taylor" else tp.importance.GroupMagnitudeImportance(p=2)
    )
    kind = tp.pruner.GroupNormPruner if route == "group norm" else tp.pruner.BasePruner
    return kind(
        net,
        x[:1],
        importance,
        global_pruning=True,
        pruning_ratio=share,
        max_pruning_ratio=0.95,
        round_to=8,
        ignored_layers=[net.layers[-1]],
        unwrapped_parameters=[(bias, 0) for bias in net.spread.values()],  # pairs, unlike its docstring
    )


def pruned(route, net, x, most):
    """The largest network of at most `most` parameters that one step of the pruner makes of this one."""
    gradients = {}
    if route == "taylor":
        net.zero_grad()
        F.mse_loss(net(x[:SEEN]), x[:SEEN]).backward()
        gradients = {name: value.grad.clone() for name, value in net.named_parameters()}
    best, low, high = None, 0.0, 1.0
    for _ in range(BISECTIONS):
        share = (low + high) / 2
        small = copy.deepcopy(net)
        for name, value in small.named_parameters():
            value.grad = gradients[name].clone() if gradients else None
        pruner_of(route, small, x, share).step()
        if size(small) <= most:
            best, high = small if best is None or size(small) >= size(best) else best, share
        else:
            low = share
    if best is None:
        raise RuntimeError(f"{route}: no share of the units leaves at most {most} parameters")
    best.zero_grad(set_to_none=True)
    return best


def route_taken(route, given, x, job):
    """A copy of the given network after this route's cuts and all trainings."""
    torch.manual_seed(0)
    net, total = copy.deepcopy(given), size(given)
    for number in range(1, job["rounds"] + 1):
        # the regularizer shrinks the units before they are ranked, so its training comes before each cut
        pruner = pruner_of(route, net, x, 0.5) if route == "group norm" else None
        if pruner is not None or number > 1:
            trained(net, x, job["round epochs"], job, number, decay=False, pruner=pruner)
        most = int(total * (job["limit"] / total) ** (number / job["rounds"]))
        if size(net) > most:
            net = pruned(route, net, x, most)
    trained(net, x, job["epochs"], job, 0, decay=True)
    return net


def main(folder):
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    given = Net(job["steps"], read(folder / "weights.npz"))
    probe, expected = (torch.from_numpy(array) for array in read(folder / "probe.npz"))
    with torch.no_grad():
        apart = float((given(probe) - expected).abs().max())
    if not apart <= job["tolerance"]:
        sys.exit(f"the outputs of torch and Keras are {apart:.1e} apart")
    x = torch.from_numpy(np.load(folder / "images.npy", allow_pickle=False))
    best, losses = None, {}
    for route in job["routes"]:
        began = time.perf_counter()
        net = route_taken(route, given, x, job)
        losses[route] = loss_of(net, x)
        print(f"  {route}: {size(net)}, {losses[route]:.5f}, {time.perf_counter() - began:.0f} s", flush=True)
        if losses[route] == min(losses.values()):
            best = (route, net)
    route, net = best
    np.savez(folder / "cut.npz", *net.arrays())
    with torch.no_grad():
        np.savez(folder / "outputs.npz", net(probe).numpy())
    said = {"route": route, "losses": losses, "given apart": apart}
    said["versions"] = {name: version(name) for name in ("torch", "torch-pruning")}
    (folder / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
