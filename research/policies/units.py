"""The units that each axis of each parameter of a network belongs to, for changes of its sizes.

An axis is a sequence of blocks. A block gives each unit of a layer a value of its own (a row of the weights that
compute it, its bias), or the units of a layer are read in it (a column of the weights that multiply them), or it
belongs to something whose size does not change, such as the observation.
"""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor, nn

from research.policies.memory import MemoryPolicy
from research.policies.memory.heads import FilmHead, GeneratedLinear, HyperHead, StateHead
from research.policies.memory.recurrent import Recurrent
from research.policies.mlp import MLP, CategoricalMLP, GaussianMLP
from research.policies.q_network import DuelingQNetwork, QNetwork

_GATES = 3


class Block(NamedTuple):
    """A part of an axis.

    Attributes:
        size: Its length.
        units: Name of the layer whose units it belongs to; empty for sizes that do not change.
        is_read: Whether the values of these units are multiplied and summed here.
    """

    size: int
    units: str = ""
    is_read: bool = False


Axis = tuple[Block, ...]


class Chain(NamedTuple):
    """Layers of a perceptron, between which others can be put.

    Attributes:
        prefix: Name of the module; its layer i is `<prefix>.<2i>`.
        units: Names of the layers that an activation follows.
        activation: The class of the activation.
    """

    prefix: str
    units: tuple[str, ...]
    activation: type[nn.Module]


class Layout(NamedTuple):
    """The layout of a network.

    Attributes:
        axes: The axes of each parameter by name.
        chains: The perceptrons in which layers can be put.
        sizes: The number of units of each layer whose size can change.
        even: Layers whose units must all be copied equally often, as they are normalised together.
    """

    axes: dict[str, tuple[Axis, ...]]
    chains: tuple[Chain, ...]
    sizes: dict[str, int]
    even: frozenset[str] = frozenset()


def layout_of(network: nn.Module) -> Layout:
    """Returns the layout of a policy or a Q-network.

    Raises:
        ValueError: The network is none of those whose sizes can change.
    """
    if isinstance(network, MemoryPolicy):
        axes = _of_memory_policy(network)
        even = frozenset(name for name in ("body", "value_body") if network.config.layer_norm)
        return _layout(network, axes, (), even)
    if isinstance(network, DuelingQNetwork):
        return _of_dueling(network)
    for name, kind in (("mean", GaussianMLP), ("logits", CategoricalMLP), ("value", QNetwork)):
        if isinstance(network, kind):
            axes, chain = _of_mlp(name, cast(MLP, getattr(network, name)))
            return _layout(network, axes, (chain,))
    raise ValueError(
        f"a network of type {type(network).__name__}: its layout is not known; the sizes of MLP policies, Q-networks "
        "and policies with a GRU can change"
    )


def _layout(
    network: nn.Module, axes: dict[str, tuple[Axis, ...]], chains: tuple[Chain, ...], even: frozenset[str] = frozenset()
) -> Layout:
    """Returns the layout, in the order of the parameters; axes that are not named belong to what does not change."""
    complete = {name: axes.get(name) or tuple((Block(size),) for size in value.shape)
                for name, value in network.named_parameters()}  # fmt: skip
    for name, value in network.named_parameters():
        assert tuple(sum(block.size for block in axis) for axis in complete[name]) == tuple(value.shape), name
    blocks = [block for own in complete.values() for axis in own for block in axis if block.units]
    return Layout(complete, chains, {block.units: block.size for block in blocks}, even)


def _of_mlp(prefix: str, layers: MLP, reads: str = "", ends: bool = True) -> tuple[dict[str, tuple[Axis, ...]], Chain]:
    """Returns the axes and the chain of a perceptron.

    Args:
        prefix: Its name.
        layers: The module.
        reads: The layer that the first one reads; empty for an input whose size does not change.
        ends: Whether the last layer is an output, which no activation follows.
    """
    linear = cast(list[nn.Linear], list(layers)[::2])
    axes: dict[str, tuple[Axis, ...]] = {}
    names: list[str] = []
    for index, layer in enumerate(linear):
        is_output = ends and index == len(linear) - 1
        own = "" if is_output else f"{prefix}.{2 * index}"
        rows, columns = (Block(layer.out_features, own),), (Block(layer.in_features, reads, True),)
        axes |= {f"{prefix}.{2 * index}.weight": (rows, columns), f"{prefix}.{2 * index}.bias": (rows,)}
        reads = own
        names += [own] * (not is_output)
    return axes, Chain(prefix, tuple(names), _activation(layers))


def _activation(layers: nn.Sequential) -> type[nn.Module]:
    return next((type(module) for module in layers if not isinstance(module, nn.Linear)), nn.Identity)


def _of_dueling(network: DuelingQNetwork) -> Layout:
    axes: dict[str, tuple[Axis, ...]] = {}
    chains: tuple[Chain, ...] = ()
    reads = ""
    if len(network.body):
        own, chain = _of_mlp("body.0", cast(MLP, network.body[0]), ends=False)
        chains = (chain._replace(activation=type(network.body[1])),)
        axes, reads = own, chain.units[-1]
    for name, stream in (("state_value", network.state_value), ("advantage", network.advantage)):
        axes |= _of_mlp(name, stream, reads)[0]
    return _layout(network, axes, chains)


def _of_memory_policy(policy: MemoryPolicy) -> dict[str, tuple[Axis, ...]]:
    config = policy.config
    if config.memory != "gru":
        raise ValueError(
            f"policy.memory={config.memory!r}: its sizes cannot change while it is trained; need 'gru', whose units "
            "can be copied"
        )
    size = config.hidden_size
    axes = _of_gru("body", cast(Recurrent, policy.body))
    memory: Axis = (Block(size, "body", True),)
    read: Axis = (Block(2 * config.belief_size),) if config.belief_size else memory
    value_read = read
    if policy.value_body is not None:
        axes |= _of_gru("value_body", cast(Recurrent, policy.value_body))
        value_read = (Block(size, "value_body", True),)
    if config.belief_size:
        axes["belief.weight"] = ((Block(2 * config.belief_size),), memory)
    if policy.head is None:
        axes["action_weight"] = ((Block(len(policy.action_weight)),), read)
        axes["value_weight"] = ((Block(len(policy.value_weight)),), value_read)
        return axes
    if isinstance(policy.head, FilmHead):
        axes |= _of_film_head("head", policy.head, read)
    elif isinstance(policy.head, HyperHead):
        axes |= _of_hyper_head("head", policy.head, read)
    else:
        axes |= _of_state_head("head", cast(StateHead, policy.head), read)
    return axes | _of_state_head("value_head", policy.value_head, value_read)


def _of_gru(prefix: str, memory: Recurrent) -> dict[str, tuple[Axis, ...]]:
    """The rows of the gates r, z and n each belong to the units of the state."""
    size = len(memory.bias_hidden)
    own: Axis = (Block(size, prefix),)
    gates: Axis = own * _GATES
    axes: dict[str, tuple[Axis, ...]] = {
        "weight_input": (gates, (Block(memory.weight_input.shape[1]),)),
        "bias_input": (gates,),
        "weight_hidden": (gates, (Block(size, prefix, True),)),
        "bias_hidden": (own,),
    }
    if memory.pair is not None:
        axes["pair"] = ((Block(len(memory.pair)),), gates)
    if memory.norm_input is not None:
        axes |= {f"{norm}.{name}": (gates,) for norm in ("norm_input", "norm_hidden") for name in ("weight", "bias")}
    if memory.start is not None:
        axes["start"] = (own,)
    return {f"{prefix}.{name}": value for name, value in axes.items()}


def _of_state_head(prefix: str, head: StateHead, read: Axis) -> dict[str, tuple[Axis, ...]]:
    layers = cast(list[nn.Linear], list(head.layers))
    rest = layers[0].in_features - sum(block.size for block in read)
    columns: Axis = (*read, Block(rest))
    return _of_layers(f"{prefix}.layers", [layer.weight for layer in layers], columns)


def _of_film_head(prefix: str, head: FilmHead, read: Axis) -> dict[str, tuple[Axis, ...]]:
    layers = cast(list[nn.Linear], list(head.layers))
    axes = _of_layers(f"{prefix}.layers", [layer.weight for layer in layers], (Block(layers[0].in_features),))
    units: Axis = tuple(Block(width, f"{prefix}.layers.{index}") for index, width in enumerate(head.widths))
    return axes | {f"{prefix}.film.weight": (units * 2, read), f"{prefix}.film.bias": (units * 2,)}


def _of_hyper_head(prefix: str, head: HyperHead, read: Axis) -> dict[str, tuple[Axis, ...]]:
    """Weights and biases that generate (W, b) of a layer, `[output, input + 1, memory]` and `[output, input + 1]`."""
    axes: dict[str, tuple[Axis, ...]] = {}
    if head.embedding is not None:
        axes[f"{prefix}.embedding.weight"] = ((Block(head.embedding.out_features),), read)
        read = (Block(head.embedding.out_features),)
    layers = cast(list[GeneratedLinear], list(head.layers))
    plain = _of_layers("", [layer.bias for layer in layers], (Block(layers[0].bias.shape[1] - 1),))
    for index in range(len(layers)):
        rows, columns = plain[f".{index}.weight"]
        columns = (*(block._replace(units=block.units and f"{prefix}.layers{block.units}") for block in columns),)
        rows = (*(block._replace(units=block.units and f"{prefix}.layers{block.units}") for block in rows),)
        own = (rows, (*columns, Block(1)))
        axes |= {f"{prefix}.layers.{index}.weight": (*own, read), f"{prefix}.layers.{index}.bias": own}
    return axes


def _of_layers(prefix: str, weights: list[Tensor], columns: Axis) -> dict[str, tuple[Axis, ...]]:
    """Returns the axes of layers `<prefix>.<i>`, the first of which reads `columns`; the last one is the output."""
    axes: dict[str, tuple[Axis, ...]] = {}
    for index, weight in enumerate(weights):
        own = f"{prefix}.{index}" if index < len(weights) - 1 else ""
        rows: Axis = (Block(len(weight), own),)
        axes |= {f"{prefix}.{index}.weight": (rows, columns), f"{prefix}.{index}.bias": (rows,)}
        columns = (Block(len(weight), own, True),)
    return axes
