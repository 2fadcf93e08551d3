"""Larger networks that compute the same function: copies of units, and layers that are the identity.

Unit j of a layer with copies C(j), itself among them, has the output a_j in each of them. With W the weights that
compute a, and V those that read it,

    W'[c, :] = W[j, :]     V'[:, c] = V[:, j] / |C(j)| + ε[:, c],  Σ_{c ∈ C(j)} ε[:, c] = 0          for c ∈ C(j)

the layer that reads computes Σ_c V'[:, c] a_c = Σ_j V[:, j] a_j, as before (Net2WiderNet: Chen, Goodfellow & Shlens
2016, arXiv:1511.05641, section 2.2). This holds for the state of a GRU, too, whose weights both compute and read it:
its rows are copied in each of the gates, its columns divided. If the copies are equal at one step, so they are at the
next, as their gates have equal inputs; and they are at the start of a trial.

A layer with W = I and b = 0 after a layer of ReLU changes nothing, as φ(φ(x)) = φ(x) (Net2DeeperNet, section 2.3). No
layer of tanh is the identity. The nearest one is exact for outputs of −1, 0 and 1: W = c I, and V / tanh(c) reads it.
For c = 0.5 the outputs of the layer below change by at most 0.03.

Optimisers: for a loss of the outputs alone the gradients are, at ε = 0, with δ = ∂L/∂W and γ = ∂L/∂V,

    δ'[c, :] = δ[j, :] / |C(j)|     γ'[:, c] = γ[:, j]

Means of gradients, such as Adam's first moment, follow the same map, means of squared gradients its square. With a
learning rate for each element (Meta-SGD), α'_W = |C(j)| α_W and α'_V = α_V / |C(j)| make gradient steps of both
networks the same, too. With one rate for all they are not: each copy moves 1 / |C(j)| as far, and what reads all copies
of a unit |C(j)| times. Where a meta-gradient passes through such steps, moments that are carried are estimates.

At ε = 0, copies have equal gradients, and no step can tell them apart. ε makes their δ differ, whatever the optimiser,
if what reads them has at least two outputs; with one output it only scales their δ, which Adam does not see.

Differs from the paper: its noise changes the function a little, ε does not. Copies are as even as possible: a unit is
copied twice only if all were copied once. A normalised GRU must copy all units equally often, so that the moments of
its units stay.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from research.policies.changes import AxisMap, Change, Copied, Inserted
from research.policies.units import Axis, Chain, Layout, layout_of
from research.types import Params

TANH_SCALE = 0.5
"""c of an inserted layer of tanh."""


class Units(NamedTuple):
    """The units of a layer of the new network.

    Attributes:
        layer: Name of the layer of the old network that has the same outputs.
        origin: The old unit of each new one, `[new units]`; None if they are the old ones.
        gain: Factor on the weights that read the layer: 1, but for inserted layers of tanh.
    """

    layer: str
    origin: Tensor | None
    gain: float = 1.0


def net2net(
    before: nn.Module, after: nn.Module, params: Params, generator: np.random.Generator, noise: float = 0.1
) -> Change:
    """Returns the map from the parameters of one network to those of a larger one that computes the same function.

    Args:
        before: The network.
        after: A network with other sizes. The parameters of neither module are read.
        params: The parameters of the network, which set the size of ε.
        generator: Source of the copies and of ε.
        noise: Standard deviation of ε relative to the root mean square of the weights that read the copies.

    Raises:
        ValueError: The new network is smaller, or its layers are not those of the old one with others between.

    Example:
        >>> from research import rng
        >>> from research.policies.q_network import QNetwork
        >>> small, large = (QNetwork(sizes, "relu", generator=torch.Generator()) for sizes in [(2, 3, 2), (2, 5, 5, 2)])
        >>> params = {name: value.detach() for name, value in small.named_parameters()}
        >>> change = net2net(small, large, params, rng.generator(0, "units"))
        >>> _ = large.load_state_dict(change.params(params))
        >>> torch.allclose(small(torch.ones(2)), large(torch.ones(2)))
        True
    """
    old, new = layout_of(before), layout_of(after)
    chains = _matched(old, new)
    layers = {name: name for name in new.sizes} | {new_: old_ for one in chains for new_, old_ in one.kept.items()}
    units = {
        name: Units(layers[name], _copies(name, old.sizes.get(layers[name], 0), new, generator))
        for name in new.sizes
        if not any(name in one.inserted for one in chains)
    }
    inserted = {name: tensor for one in chains for name, tensor in _inserted(one, units)}
    tensors: dict[str, Copied | Inserted] = {}
    for name, axes in new.axes.items():
        layer, _, last = name.rpartition(".")
        source = f"{layers.get(layer, layer)}.{last}" if layer else name
        source = next((one.outputs[layer] + "." + last for one in chains if layer in one.outputs), source)
        if name in inserted:
            tensors[name] = inserted[name]
        elif source in old.axes and len(old.axes[source]) == len(axes):
            maps = tuple(_axis_map(*pair, units) for pair in zip(old.axes[source], axes, strict=True))
            tensors[name] = Copied(source, maps, _noise(params[source], axes, maps, units, generator, noise))
        else:
            raise ValueError(f"{name}: the network has no such parameter; only the number of units can change")
    same = all(first.activation is second.activation for first, second in zip(old.chains, new.chains, strict=True))
    return Change(tensors, same and all(one.is_exact for one in inserted.values()))


class _Matched(NamedTuple):
    """A chain of the new network, and its layers of the old one.

    Attributes:
        chain: The chain.
        kept: Layer of the new network → that of the old one.
        inserted: The other layers, in their order, with the layer that each of them reads.
        outputs: The output layer of the new network → that of the old one.
    """

    chain: Chain
    kept: dict[str, str]
    inserted: dict[str, str]
    outputs: dict[str, str]


def _matched(old: Layout, new: Layout) -> list[_Matched]:
    """Returns the chains of the new network. Raises ValueError if layers are lost, or put where none can be."""
    prefixes = [chain.prefix for chain in old.chains]
    if prefixes != [chain.prefix for chain in new.chains]:
        raise ValueError(f"a network with layers of {[*new.sizes.values()]} units: none can be put before the first "
                         f"hidden layer of one with {[*old.sizes.values()]}")  # fmt: skip
    return [_match(*pair, old.sizes, new.sizes) for pair in zip(old.chains, new.chains, strict=True)]


def _match(old: Chain, new: Chain, old_sizes: dict[str, int], new_sizes: dict[str, int]) -> _Matched:
    """Returns the match that inserts layers as near to the output as possible."""
    sizes = [new_sizes[name] for name in new.units]
    count = len(new.units) - len(old.units)
    for chosen in itertools.combinations(reversed(range(1, len(sizes))), count) if count >= 0 else ():
        rest = [name for place, name in enumerate(new.units) if place not in chosen]
        grows = all(new_sizes[now] >= old_sizes[then] for now, then in zip(rest, old.units, strict=True))
        if grows and all(sizes[place] == sizes[place - 1] for place in chosen):
            inserted = {new.units[place]: new.units[place - 1] for place in sorted(chosen)}
            ends = {f"{new.prefix}.{2 * len(new.units)}": f"{old.prefix}.{2 * len(old.units)}"}
            return _Matched(new, dict(zip(rest, old.units, strict=True)), inserted, ends)
    raise ValueError(
        f"layers of {sizes} units: need those of {[old_sizes[name] for name in old.units]} or more units each, and "
        "other layers only after one of the same size"
    )


def _copies(name: str, old_size: int, new: Layout, generator: np.random.Generator) -> Tensor | None:
    """Returns the old unit of each new one: all old ones, and then copies of some, as even as possible."""
    size = new.sizes[name]
    if size == old_size:
        return None
    if size < old_size:
        raise ValueError(f"{size} units: need at least the {old_size} that are there, units are never taken away")
    if old_size == 0:
        raise ValueError(f"a layer of {size} units: there is none to copy; need as many layers as before")
    if name in new.even and size % old_size:
        raise ValueError(f"{size} units: the layer is normalised, need a multiple of {old_size}, so that the mean and "
                         "the variance of its units stay")  # fmt: skip
    extra = size - old_size
    drawn = np.concatenate([generator.permutation(old_size) for _ in range(-(-extra // old_size))])[:extra]
    return torch.from_numpy(np.concatenate([np.arange(old_size), drawn]))


def _inserted(one: _Matched, units: dict[str, Units]) -> Iterator[tuple[str, Inserted]]:
    """Yields the tensors of inserted layers by name, and adds the units of these layers."""
    is_exact = one.chain.activation is nn.ReLU
    for layer, below in one.inserted.items():
        scale = 1.0 if is_exact else TANH_SCALE * units[below].gain
        gain = 1.0 if is_exact else 1 / float(np.tanh(TANH_SCALE))
        units[layer] = units[below]._replace(gain=gain)
        yield f"{layer}.weight", Inserted(f"{below}.weight", scale, is_exact)
        yield f"{layer}.bias", Inserted(f"{below}.bias", 0.0, is_exact)


def _axis_map(old: Axis, new: Axis, units: dict[str, Units]) -> AxisMap | None:
    """Returns the map of an axis; None if it stays. Raises ValueError if something else than units differs."""
    start, changes = 0, False
    parts: list[AxisMap] = []
    for then, now in zip(old, new, strict=True):
        own = units.get(now.units, Units("", None))
        index = torch.arange(then.size) if own.origin is None else own.origin
        if len(index) != now.size:
            raise ValueError(f"an axis of {now.size} elements: need {then.size}; only the number of units can change")
        share = 1 / index.bincount()[index].double()
        ones = torch.ones_like(share)
        factors = (share * own.gain, ones / own.gain) if now.is_read else (ones, share)
        parts.append(AxisMap(index + start, *factors))
        changes |= own.origin is not None or (now.is_read and own.gain != 1)
        start += then.size
    return AxisMap(*(torch.cat(column) for column in zip(*parts, strict=True))) if changes else None


def _noise(
    old: Tensor,
    axes: tuple[Axis, ...],
    maps: tuple[AxisMap | None, ...],
    units: dict[str, Units],
    generator: np.random.Generator,
    noise: float,
) -> Tensor | None:
    """Returns ε of a tensor, whose sum over the copies of each unit that is read is 0; None without copies."""
    for axis, (blocks, own) in enumerate(zip(axes, maps, strict=True)):
        is_read = any(block.is_read and units[block.units].origin is not None for block in blocks if block.units)
        if own is None or not is_read or not noise:
            continue
        shape = [old.shape[place] if one is None else len(one.origin) for place, one in enumerate(maps)]
        drawn = torch.from_numpy(generator.standard_normal(shape))
        shape[axis] = old.shape[axis]
        sums = torch.zeros(shape, dtype=drawn.dtype).index_add(axis, own.origin, drawn)
        count = own.origin.bincount(minlength=old.shape[axis])
        mean = sums / count.reshape([-1 if place == axis else 1 for place in range(old.ndim)])
        scale = noise * float(old.double().square().mean().sqrt())
        return scale * (drawn - mean.index_select(axis, own.origin))
    return None
