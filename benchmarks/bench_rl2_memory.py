"""RL² with other memories and heads: rows/s of passes and collection, next to plain torch and the peak of a core."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.bench_rl2 import iterate, median, processor_seconds
from benchmarks.harness import Measurement, benchmark
from research.memory import keep_freed_memory
from research.policies.memory import Inputs, MemoryConfig, MemoryPolicy
from research.policies.memory.generated import generated_linear, generated_recorded
from research.policies.memory.inputs import Encoder
from research.rng import torch_generator

ROWS, TIME, OBSERVATIONS, ACTIONS, SIZE = 64, 100, 20, 6, 64
CONFIGS = {
    "gru_linear": MemoryConfig(),
    "gru_state": MemoryConfig(head="state"),
    "gru_film": MemoryConfig(head="film"),
    "gru_hyper": MemoryConfig(head="hyper"),
    "gru_hyper_32": MemoryConfig(head="hyper", hyper_size=32),
    "transformer_linear": MemoryConfig(memory="transformer"),
    "transformer_hyper_32": MemoryConfig(memory="transformer", head="hyper", hyper_size=32),
    "set_state": MemoryConfig(memory="set", head="state", num_layers=2),
    "set_hyper_32": MemoryConfig(memory="set", head="hyper", num_layers=2, hyper_size=32),
}


def _policy(config: MemoryConfig) -> tuple[MemoryPolicy, Inputs]:
    encoder = Encoder(OBSERVATIONS, ACTIONS, False, has_last=config.memory == "set")
    policy = MemoryPolicy(config, encoder, torch_generator(0, "bench"), TIME)
    inputs = Inputs(torch.randn(TIME, ROWS, encoder.num_features).transpose(0, 1))
    return policy, inputs


def _peak() -> float:
    """Returns the rate of a large product of matrices, FLOP/s, at this moment."""
    square = torch.randn(1024, 1024)
    return 2 * 1024**3 / processor_seconds(lambda: square @ square)


@benchmark("rl2/memory_and_head/64x100x64")
def passes() -> Iterator[Measurement]:
    """Forward and backward of 64 trials of 100 steps on one core; the head has a layer of 64 units."""
    keep_freed_memory()
    torch.set_num_threads(1)
    for name, config in CONFIGS.items():
        policy, inputs = _policy(config)

        def update(policy: MemoryPolicy = policy, inputs: Inputs = inputs) -> None:
            output = policy(inputs, policy.initial_state(ROWS))
            (output.distribution.mean.square().sum() + output.value.square().sum()).backward()

        seconds = processor_seconds(update)
        weights = sum(parameter.numel() for parameter in policy.parameters())
        share = 6 * weights * ROWS * TIME / seconds / _peak()
        note = f"{weights} parameters; {share:.2f} of peak, counting 6 operations for each parameter"
        yield Measurement(f"rl2/memory_and_head/64x100x64/{name}", ROWS * TIME / seconds, "rows/s", note=note)


@benchmark("rl2/generated_weights")
def generated() -> Iterator[Measurement]:
    """A layer with weights of its own for each of 6,400 rows, forward and backward, against `torch.bmm`."""
    keep_freed_memory()
    torch.set_num_threads(1)
    for memory, inputs, outputs in ((64, 20, 64), (64, 64, 64), (32, 64, 64), (64, 64, 6)):
        shapes = ((6400, memory), (6400, inputs), (outputs, inputs + 1, memory), (outputs, inputs + 1))
        leaves = [torch.randn(shape).requires_grad_() for shape in shapes]

        def run(layer: Callable[..., Tensor], leaves: list[Tensor] = leaves) -> float:
            return processor_seconds(lambda: layer(*leaves).sum().backward())

        ours, theirs, peak = run(generated_linear), run(generated_recorded), _peak()
        share = 6 * outputs * (inputs + 1) * (memory + 1) * 6400 / ours / peak
        name = f"rl2/generated_weights/{memory}x{inputs}x{outputs}"
        note = f"{theirs / ours:.2f} × torch.bmm, {share:.2f} of peak ({peak / 1e9:.0f} GFLOP/s)"
        yield Measurement(name, 6400 / ours, "rows/s", note=note)


@benchmark("rl2/transformer/64x100x64")
def transformer() -> Iterator[Measurement]:
    """One block, forward and backward, against `nn.TransformerEncoder` with a causal mask."""
    keep_freed_memory()
    torch.set_num_threads(1)
    policy, inputs = _policy(CONFIGS["transformer_linear"])
    layer = nn.TransformerEncoderLayer(SIZE, 4, 4 * SIZE, 0.0, "gelu", batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 1, nn.LayerNorm(SIZE), enable_nested_tensor=False)
    embedding, mask = nn.Linear(inputs.features.shape[-1], SIZE), nn.Transformer.generate_square_subsequent_mask(TIME)
    by_time = inputs.map(lambda field: field.transpose(0, 1))

    def ours() -> None:
        policy.body(by_time, policy.body.initial_state(ROWS))[0].square().sum().backward()

    def theirs() -> None:
        encoder(embedding(inputs.features), mask, is_causal=True).square().sum().backward()

    seconds, plain = processor_seconds(ours), processor_seconds(theirs)
    note = f"{plain / seconds:.2f} × nn.TransformerEncoder"
    yield Measurement("rl2/transformer/64x100x64/rows", ROWS * TIME / seconds, "rows/s", note=note)


@benchmark("rl2/memory_and_head/bandit")
def iterations() -> Iterator[Measurement]:
    """Updates and collection of 200 bandits of 100 pulls on all cores."""
    for name, config in CONFIGS.items():
        metrics = iterate(1, 2, meta_batch_size=200, num_epochs=1, policy=config)
        updated = median(metrics, "env_steps") / median(metrics, "time/update_seconds")
        collected = median(metrics, "time/env_steps_per_second")
        yield Measurement(f"rl2/memory_and_head/bandit/{name}/update_rows", updated, "rows/s")
        yield Measurement(f"rl2/memory_and_head/bandit/{name}/collect", collected, "steps/s")
