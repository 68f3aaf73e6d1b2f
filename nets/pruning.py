"""Structured pruning: whole channels leave a network, and what is left is a smaller network of the same plan.

Channels go in groups that depend on each other (DepGraph: Fang et al., CVPR 2023, through Torch-Pruning), those of the
smallest group norm first. What remains is written down as plain numbers, one row a layer whose width changed, so that
nets.registry builds the pruned network again without Torch-Pruning: `build(name, pruned=rows, **hyper)`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

Row = list[str | int]
"""Name of a layer, its input channels, output channels and groups; of a normalisation all three are its channels."""


def prune(network: nn.Module, image: Tensor, *, ratio: float, everywhere: bool = False) -> list[Row]:
    """Takes channels out of `network` in place; gives the rows that `narrowed` makes of an unpruned one the same.

    `ratio` of the channels goes from every layer; with `everywhere` they are ranked over the whole network, and a layer
    keeps at least a tenth. What gives the network's output, or filters the image's own channels, stays as wide as it
    is. `image` (1, channels, *spatial) is what the network is traced with. Raises ValueError for an impossible ratio,
    TypeError for a transformer, ModuleNotFoundError without Torch-Pruning.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"ratio {ratio:g} is not between 0 and 1")
    if any(isinstance(layer, nn.LayerNorm) for layer in network.modules()):
        raise TypeError(
            "only networks of convolutions can be pruned"
        )  # heads and windows tie channels together
    import torch_pruning

    before = _widths(network)
    norm = torch_pruning.importance.GroupMagnitudeImportance(p=2)

    def importance(group: Any, **options: Any) -> Tensor:
        norms: Tensor = norm(group, **options)
        if (
            everywhere
        ):  # the strongest tenth goes after all others; max_pruning_ratio counts before a step, not in it
            norms[norms.topk(math.ceil(len(norms) / 10)).indices] += 1e6
        return norms

    with _tracing(network):
        pruner = torch_pruning.pruner.BasePruner(
            network,
            image,
            importance=importance,
            pruning_ratio=ratio,
            global_pruning=everywhere,
            max_pruning_ratio=0.9 if everywhere else 1.0,
            ignored_layers=_ends(network, image),
            forward_fn=_in_training,
        )
        pruner.step()
    return [row for name, row in _widths(network).items() if row != before[name]]


def narrowed(network: nn.Module, rows: Sequence[Sequence[Any]]) -> nn.Module:
    """The network with the widths of `rows`, in place; the weights of a layer that changes are drawn anew.

    Raises ValueError where a row names no layer of it or widths that the layer cannot have.
    """
    for row in rows:
        name, *numbers = row
        try:
            layer = network.get_submodule(str(name))
            inputs, outputs, groups = (int(n) for n in numbers)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"pruned: {list(row)} is not a layer and its inputs, outputs, groups") from error
        if min(inputs, outputs, groups) < 1 or inputs % groups or outputs % groups:
            raise ValueError(f"pruned: {name}: {inputs} to {outputs} channels in {groups} groups")
        if isinstance(layer, _ConvNd):
            _narrow_convolution(layer, inputs, outputs, groups)
        elif isinstance(layer, _NormBase):
            _narrow_normalisation(layer, outputs)
        else:
            raise ValueError(f"pruned: {name} is neither a convolution nor a normalisation")
    return network


def _widths(network: nn.Module) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, _ConvNd):
            rows[name] = [name, layer.in_channels, layer.out_channels, layer.groups]
        elif isinstance(layer, _NormBase):
            rows[name] = [name, layer.num_features, layer.num_features, layer.num_features]
    return rows


def _in_training(network: nn.Module, image: Tensor) -> Any:
    """As in training, where auxiliary heads have their say: their widths hang on those of the rest."""
    return network.train()(image)


@contextlib.contextmanager
def _tracing(network: nn.Module) -> Iterator[None]:
    """Forward passes in here leave the running statistics as they are; the mode is as before afterwards."""
    training = network.training
    momenta = {part: part.momentum for part in network.modules() if isinstance(part, _NormBase)}
    for part in momenta:
        part.momentum = 0.0
    try:
        yield
    finally:
        for part, momentum in momenta.items():
            part.momentum = momentum
        network.train(training)


def _ends(network: nn.Module, image: Tensor) -> list[nn.Module]:
    """The convolutions that the outputs come from, and those that filter the image's channels one by one.

    Whatever crops, pads or resizes between them and the ends makes no difference. Their channels are the network's.
    """
    layer_of: dict[Any, nn.Module] = {}
    fed_by: dict[nn.Module, Any] = {}

    def note(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        layer_of[out.grad_fn] = layer
        fed_by[layer] = given[0].grad_fn

    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, _ConvNd)]
    with torch.enable_grad():
        image = image.detach().requires_grad_() * 1  # a step of its own, to be found again
        given = _in_training(network, image)
    for hook in hooks:
        hook.remove()
    outputs = [given] if isinstance(given, Tensor) else list(given)
    last = [layer_of[node] for out in outputs for node in _before(out.grad_fn, layer_of) if node in layer_of]
    first = [
        layer
        for layer, node in fed_by.items()
        if isinstance(layer, _ConvNd) and layer.groups > 1 and image.grad_fn in _before(node, layer_of)
    ]
    return [*last, *first]


def _before(node: Any, layer_of: dict[Any, nn.Module]) -> set[Any]:
    """The steps of the computation that lead to `node`, itself too, back to the next convolutions."""
    seen: set[Any] = set()
    waiting = [node]
    while waiting:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if step not in layer_of:
            waiting += [before for before, _ in step.next_functions]
    return seen


def _narrow_convolution(layer: _ConvNd, inputs: int, outputs: int, groups: int) -> None:
    if layer.bias is not None and outputs != layer.out_channels:
        layer.bias = nn.Parameter(layer.bias.new_zeros(outputs))
    layer.in_channels, layer.out_channels, layer.groups = inputs, outputs, groups
    shape = (inputs, outputs // groups) if layer.transposed else (outputs, inputs // groups)
    layer.weight = nn.Parameter(layer.weight.new_empty(*shape, *layer.kernel_size))
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))  # as torch begins a convolution


def _narrow_normalisation(layer: _NormBase, channels: int) -> None:
    layer.num_features = channels
    for name in ("weight", "bias"):
        if getattr(layer, name) is not None:
            setattr(layer, name, nn.Parameter(getattr(layer, name).new_empty(channels)))
    for name in ("running_mean", "running_var"):
        if getattr(layer, name) is not None:
            setattr(layer, name, getattr(layer, name).new_empty(channels))
    layer.reset_parameters()
