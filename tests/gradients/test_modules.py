"""Every module works with right meta-gradients or is refused: the claims of research/inner_loops/supported.py."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import inner_problems as ip
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from research.inner_loops.supported import check_model, twice_differentiable, vmappable

WIDTH = 8


class Reshape(nn.Module):
    """Rows of `WIDTH` features as another shape, or back again without one."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape = shape or (-1,)

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.shape)


class Recurrent(nn.Module):
    """A recurrent layer over two time steps."""

    def __init__(self, layer: type[nn.RNNBase]):
        super().__init__()
        self.layer = layer(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, 2, 4))[0].reshape(-1, WIDTH)


class Cell(nn.Module):
    """A recurrent cell for one step."""

    def __init__(self, cell: type[nn.RNNCellBase]):
        super().__init__()
        self.cell = cell(WIDTH, WIDTH, True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.cell(x)
        return out[0] if isinstance(out, tuple) else out


class Attention(nn.Module):
    """Self-attention over two positions, `attend(x)` with x `[rows, 2, 4]`."""

    def __init__(self, kind: str):
        super().__init__()
        if kind == "multihead":
            self.layer: Any = nn.MultiheadAttention(4, 2, batch_first=True)
        elif kind != "function":
            settings = {"dropout": 0.0, "batch_first": True, "norm_first": kind == "prenorm"}
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, **settings)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 2, 4)
        if self.kind == "function":
            x = F.scaled_dot_product_attention(x, x, x)
        else:
            x = self.layer(x, x, x, need_weights=False)[0] if self.kind == "multihead" else self.layer(x)
        return x.reshape(-1, WIDTH)


class PlainLayerNorm(nn.Module):
    """Layer normalisation that no look at the module types would find."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, WIDTH))
        self.shift = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (WIDTH,), self.scale, self.shift)


class Rows(nn.Module):
    """An embedding of the sign of the first feature."""

    def __init__(self, **settings: Any):
        super().__init__()
        self.layer = nn.Embedding(2, WIDTH, **settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((x[:, 0] > 0).long()) * x


class Bilinear(nn.Bilinear):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x)


def normalised(module: nn.Module) -> nn.Module:
    """A normalisation with weights away from their start at one, where errors could hide."""
    for value in module.parameters():
        nn.init.uniform_(value, 0.5, 1.5)
    return module


WORKING: dict[str, Callable[[], nn.Module]] = {
    "LayerNorm": lambda: normalised(nn.LayerNorm(WIDTH)),
    "functional layer_norm": PlainLayerNorm,
    "RMSNorm": lambda: normalised(nn.RMSNorm(WIDTH)),
    "GroupNorm": lambda: normalised(nn.GroupNorm(2, WIDTH)),
    "InstanceNorm": lambda: nn.Sequential(Reshape(2, 4), normalised(nn.InstanceNorm1d(2, affine=True)), Reshape()),
    "BatchNorm without statistics": lambda: normalised(nn.BatchNorm1d(WIDTH, track_running_stats=False)),
    "BatchNorm in eval mode": lambda: normalised(nn.BatchNorm1d(WIDTH)).eval(),
    "Dropout in eval mode": lambda: nn.Dropout(0.5).eval(),
    "Dropout at rate 0": lambda: nn.Dropout(0.0),
    "spectral_norm in eval mode": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)).eval(),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH)),
    "Conv1d": lambda: nn.Sequential(Reshape(2, 4), nn.Conv1d(2, 2, 3, padding=1), Reshape()),
    "Conv2d": lambda: nn.Sequential(Reshape(2, 2, 2), nn.Conv2d(2, 2, 3, padding=1), nn.SiLU(), Reshape()),
    "MaxPool": lambda: nn.Sequential(Reshape(2, 4), nn.MaxPool1d(2), nn.Upsample(scale_factor=2), Reshape()),
    "GELU": nn.GELU,
    "ELU": nn.ELU,
    "Softplus": nn.Softplus,
    "PReLU": nn.PReLU,
    "Softmax": lambda: nn.Softmax(-1),
    "Embedding": Rows,
    "Bilinear": lambda: Bilinear(WIDTH, WIDTH, WIDTH),
    "RNNCell": lambda: Cell(nn.RNNCell),
    "GRUCell": lambda: Cell(nn.GRUCell),
    "LSTMCell": lambda: Cell(nn.LSTMCell),
    "RNN": lambda: Recurrent(nn.RNN),
    "GRU": lambda: Recurrent(nn.GRU),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "scaled_dot_product_attention": lambda: Attention("function"),
    "MultiheadAttention": lambda: Attention("multihead"),
    "TransformerEncoderLayer": lambda: Attention("postnorm"),
    "TransformerEncoderLayer, norm first": lambda: Attention("prenorm"),
}

REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "BatchNorm": (lambda: nn.BatchNorm1d(WIDTH), r"2: BatchNorm1d .* track_running_stats=False"),
    "InstanceNorm": (
        lambda: nn.InstanceNorm1d(2, track_running_stats=True),
        r"2: InstanceNorm1d .* running statistics",
    ),
    "Dropout": (lambda: nn.Dropout(0.1), r"2: Dropout .* random in training mode"),
    "AlphaDropout": (lambda: nn.AlphaDropout(0.1), r"2: AlphaDropout .* random in training mode"),
    "attention dropout": (lambda: nn.MultiheadAttention(4, 2, dropout=0.1), r"2: MultiheadAttention .* random"),
    "recurrent dropout": (lambda: nn.GRU(4, 4, num_layers=2, dropout=0.1), r"2: GRU .* random in training mode"),
    "RReLU": (nn.RReLU, r"2: RReLU .* random in training mode"),
    "spectral_norm": (
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
        r"2\.parametrizations\.weight\.0: _SpectralNorm .* power iteration",
    ),
    "spectral_norm by hook": (lambda: nn.utils.spectral_norm(nn.Linear(WIDTH, WIDTH)), r"2: Linear .* spectral_norm"),
    "weight_norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
        r"2\.parametrizations\.weight\.0: _WeightNorm .* second derivative",
    ),
    "max_norm": (lambda: Rows(max_norm=1.0), r"2\.layer: Embedding .* max_norm writes to its weight"),
    "sparse": (lambda: Rows(sparse=True), r"2\.layer: Embedding .* sparse=False"),
    "scale_grad_by_freq": (lambda: Rows(scale_grad_by_freq=True), r"2\.layer: Embedding .* leave it out"),
    "weight_norm by hook": (lambda: hooked_weight_norm(), r"2: Linear .* weight_norm is wrong"),
}


def hooked_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # superseded by the parametrization
        return nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH))


def net(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, WIDTH), nn.Tanh(), layer, nn.Linear(WIDTH, 2))


def problem(make: Callable[[], nn.Module]) -> ip.Problem:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ip.regression(net(make()))


def adaptable(backend: str, module: str) -> bool:
    return backend != "learn2learn" or module not in ("RNN", "GRU", "LSTM")


@pytest.mark.parametrize(("backend", "module"), [(b, m) for b in ip.BACKENDS for m in WORKING if adaptable(b, m)])
def test_meta_gradients_through_the_module_are_right(backend: str, module: str) -> None:
    made, loop = problem(WORKING[module]), ip.make_loop(backend, probe=True, inner_lr=0.2)
    with twice_differentiable(made.model):
        errors = ip.relative_errors(loop, made, ip.initial_update(loop, made, 2), 2)
    assert max(errors) < 1e-6


@pytest.mark.thorough
@pytest.mark.parametrize("module", WORKING)
def test_right_modules_pass_the_check_in_single_precision(module: str) -> None:
    made = problem(WORKING[module])
    model = made.model.float()
    batch = ip.Pairs(*(field.float() for field in made.batches[0]))
    made = ip.Problem(model, ip.start(model), made.loss, [batch, batch], batch)
    for backend in ip.BACKENDS:
        if adaptable(backend, module):
            made.adapt(ip.make_loop(backend, probe=True), made.params, {"lr": torch.tensor(0.1)}, 2)


@pytest.mark.parametrize("backend", ip.BACKENDS)
@pytest.mark.parametrize("module", REFUSED)
def test_modules_with_wrong_meta_gradients_are_refused_with_their_path(module: str, backend: str) -> None:
    make, message = REFUSED[module]
    made, loop = problem(make), ip.make_loop(backend)
    with pytest.raises(ValueError, match=message):
        made.adapt(loop, made.params, {"lr": torch.tensor(0.1)}, 1)


@pytest.mark.parametrize("layer", [nn.RNN, nn.GRU, nn.LSTM])
def test_learn2learn_refuses_recurrent_layers(layer: type[nn.RNNBase]) -> None:
    made = problem(lambda: Recurrent(layer))
    with pytest.raises(ValueError, match=rf"2\.layer: learn2learn cannot adapt {layer.__name__}"):
        made.adapt(ip.make_loop("learn2learn"), made.params, {"lr": torch.tensor(0.1)}, 1)


@pytest.mark.parametrize("module", ["weight_norm", "weight_norm by hook"])
def test_weight_norm_is_wrong_in_second_order_alone(module: str) -> None:
    """Why it is refused; the first derivative, all that a first-order inner loop takes, is right."""
    layer = REFUSED[module][0]().double()
    x = torch.randn((5, WIDTH), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    at, along = ip.start(layer), ip.directions(ip.start(layer))

    def value(params: Any) -> Tensor:
        return functional_call(layer, params, (x,)).tanh().square().sum()

    def gradient_norm(params: Any) -> Tensor:
        gradient = torch.autograd.grad(value(params), list(params.values()), create_graph=True)
        return sum(g.square().sum() for g in gradient)

    def error(function: Callable[[Any], Tensor]) -> float:
        gradient = torch.autograd.grad(function(at), list(at.values()))
        derivative = ip.dot(dict(zip(at, gradient, strict=True)), along)
        return abs(derivative / ip.slope(function, at, along) - 1)

    assert error(value) < 1e-6
    assert error(gradient_norm) > 1e-3
    check_model(layer, second_order=False)


@pytest.mark.parametrize(
    "module", ["LayerNorm", "functional layer_norm", "InstanceNorm", "BatchNorm without statistics"]
)
def test_gradients_inside_a_vmap_are_wrong_for_normalisations(module: str) -> None:
    """Why the func backend vmaps forward passes alone: differentiating vmap(grad) once more is silently wrong."""
    made = problem(WORKING[module])
    batch, query = made.batches[0], made.query

    def task_loss(params: Any, x: Tensor, y: Tensor) -> Tensor:
        return (functional_call(made.model, params, (x,)) - y).square().mean()

    def adapted_loss(params: Any, *tensors: Tensor) -> Tensor:
        gradient = torch.func.grad(task_loss)(params, *tensors[:2])
        return task_loss({name: p - 0.2 * gradient[name] for name, p in params.items()}, *tensors[2:])

    def meta_loss(params: Any) -> Tensor:
        return torch.func.vmap(adapted_loss, (None, 0, 0, 0, 0))(params, *batch, *query).mean()

    along = ip.directions(made.params)
    gradient = torch.autograd.grad(meta_loss(made.params), list(made.params.values()), materialize_grads=True)
    expected = ip.slope(meta_loss, made.params, along)
    assert abs(ip.dot(dict(zip(made.params, gradient, strict=True)), along) / expected - 1) > 1e-5

    loop = ip.make_loop("func", inner_lr=0.2)
    update = ip.leaves(loop.init_update(made.model, made.params, 1))
    assert made.meta_loss(loop, made.params, update, 1).item() == pytest.approx(
        meta_loss(made.params).item(), rel=1e-12
    )
    ours = ip.meta_gradient(loop, made, update, 1)
    assert ip.dot({name: ours[f"model.{name}"] for name in along}, along) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("backend", ip.BACKENDS)
def test_the_padding_row_of_an_embedding_stays_for_every_task(backend: str) -> None:
    made, loop = problem(lambda: Rows(padding_idx=1)), ip.make_loop(backend, probe=True, inner_lr=0.2)
    before, after = made.params["2.layer.weight"], made.adapt(loop, made.params, {"lr": torch.tensor(0.2)}, 3)
    assert all(torch.equal(row, before[1]) for row in after["2.layer.weight"][:, 1])
    assert all((row != before[0]).all() for row in after["2.layer.weight"][:, 0])


def test_under_vmap_the_padding_row_moves() -> None:
    """Why an embedding with a padding row is looped."""
    weight = torch.zeros(3, 2, 1).requires_grad_()
    rows = torch.ones(3, 4, dtype=torch.int64)
    total = torch.func.vmap(lambda w, r: F.embedding(r, w, padding_idx=1).sum())(weight, rows).sum()
    (gradient,) = torch.autograd.grad(total, weight)
    assert gradient[:, 1].flatten().tolist() == [0.0, 4.0, 4.0]


def test_vmappable_tells_which_modules_have_no_batching_rule() -> None:
    looped = {"RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell", "Bilinear"}
    assert {name for name, make in WORKING.items() if not vmappable(net(make()))} == looped
    assert not vmappable(Rows(padding_idx=1))


def test_fused_attention_has_no_second_derivative_outside_the_context() -> None:
    x = torch.randn((2, 1, 3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)

    def second_derivative() -> Tensor:
        (gradient,) = torch.autograd.grad(F.scaled_dot_product_attention(x, x, x).sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    with pytest.raises(RuntimeError, match="is not implemented"):
        second_derivative()
    with twice_differentiable(nn.Identity()):
        assert second_derivative().isfinite().all()


def test_the_context_restores_what_the_first_of_several_threads_found() -> None:
    def settings() -> tuple[bool, bool, bool]:
        return (
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cudnn.enabled,
        )

    before, inside, leave = settings(), threading.Event(), threading.Event()

    def other() -> None:
        with twice_differentiable(nn.GRU(1, 1)):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with twice_differentiable(nn.GRU(1, 1)):
        thread.start()
        assert inside.wait(10)
        assert settings() == (False, True, False)
    assert settings() == (False, True, False)
    leave.set()
    thread.join(10)
    assert settings() == before
    with pytest.raises(KeyError), twice_differentiable(nn.Identity()):
        raise KeyError
    assert settings() == before


@pytest.mark.parametrize("backend", ["func", "higher"])
@pytest.mark.parametrize("module", ["GRU", "LSTM", "MultiheadAttention"])
def test_single_precision_kernels_agree_with_double(module: str, backend: str) -> None:
    """torch takes other kernels for float32, whose second derivatives are checked against float64."""
    double, loop = problem(WORKING[module]), ip.make_loop(backend, inner_lr=0.2)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        single = ip.Problem(
            double.model.to(dtype),
            ip.leaves({name: value.to(dtype) for name, value in double.params.items()}),
            double.loss,
            [ip.Pairs(*(field.to(dtype) for field in batch)) for batch in double.batches],
            ip.Pairs(*(field.to(dtype) for field in double.query)),
        )
        update = ip.leaves(loop.init_update(single.model, single.params, 2))
        gradient = ip.meta_gradient(loop, single, update, 2)
        gradients.append(torch.cat([value.double().flatten() for value in gradient.values()]))
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()
