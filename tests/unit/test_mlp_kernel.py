"""Compiled perceptrons against the same losses of the torch modules, whose derivatives autograd makes."""

import functools
import itertools
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from research.criteria import Criterion, Kind
from research.distributions import Categorical, DiagGaussian
from research.optim.linear_map import linearize
from research.policies import mlp_kernel
from research.policies.mlp import CategoricalMLP, GaussianMLP, PolicyConfig, mlp
from research.policies.mlp_kernel import fisher_product, forward, gradient, hessian_product, serves, value
from research.policies.mlp_network import network_of

SIZES = {"one layer": (), "odd": (5,), "two layers": (9, 16), "three layers": (17, 3, 8)}
TASKS, ROWS, INPUTS = 2, 61, 3
CRITERIA = [
    *itertools.product(["gaussian", "limited", "categorical"], [Kind.LOG_PROB, Kind.RATIO, Kind.CLIPPED, Kind.KL]),
    ("plain", Kind.SQUARED),
]
CLIP = 0.2


def make_model(head, hidden, activation):
    generator = torch.Generator().manual_seed(3)
    outputs = 5 if head == "categorical" else 2
    if head == "plain":
        return mlp((INPUTS, *hidden, outputs), activation, generator)
    limit = {"min_log_std": -0.1, "init_log_std": 0.0} if head == "limited" else {}
    config = PolicyConfig(hidden, activation, **limit)
    return (CategoricalMLP if head == "categorical" else GaussianMLP)(INPUTS, outputs, config, generator)


class Problem:
    """A model with parameters for each task, rows for each task, and a criterion."""

    def __init__(self, head, kind, hidden=(9, 16), activation="tanh", rows=ROWS, shared=False, dtype=torch.float64):
        self.model, self.shared = make_model(head, hidden, activation), shared
        self.network = network_of(self.model)
        generator = torch.Generator().manual_seed(5)
        normal = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
        like = dict(self.model.named_parameters())
        lead = () if shared else (TASKS,)
        self.params = {name: (0.6 * normal(*lead, *p.shape)).to(dtype) for name, p in like.items()}
        self.theta = self.network.flat(self.params, len(lead))
        self.inputs = normal(TASKS, rows, INPUTS).to(dtype)
        self.vector = normal(*lead, self.network.num_parameters).to(dtype)
        out = self.network.sizes[-1]
        weight = normal(TASKS, rows) * (torch.rand(TASKS, rows, generator=generator) < 0.8) / rows
        target = normal(TASKS, rows, out)
        action = torch.randint(out, (TASKS, rows), generator=generator)
        self.criterion = Criterion(
            kind,
            weight.to(dtype),
            action if head == "categorical" else target.to(dtype),
            (self.log_prob_near(action if head == "categorical" else target) + 0.3 * normal(TASKS, rows)).to(dtype),
            normal(TASKS, rows, out).to(dtype),
            None if head == "categorical" else (0.3 * normal(TASKS, out)).to(dtype),
            CLIP,
        )

    def log_prob_near(self, action):
        """Log-probabilities such that ratios are on both sides of the clip."""
        if self.network.log_std is None and not self.network.is_categorical:
            return torch.zeros(TASKS, 1, dtype=torch.float64)
        rows = range(TASKS)
        return torch.stack([self.respond(t, self.of(t)).log_prob(action[t]) for t in rows]).double()

    def of(self, task):
        return {name: value if self.shared else value[task] for name, value in self.params.items()}

    def respond(self, task, params):
        return functional_call(self.model, params, (self.inputs[task],))

    def loss(self, task, params):
        """The criterion of one task in plain torch."""
        output, c = self.respond(task, params), self.criterion
        weight = c.weight[task]
        if c.kind == Kind.SQUARED:
            return (weight * (output - c.target[task]).square().sum(-1)).sum()
        if c.kind == Kind.KL:
            old = c.old[task]
            old = Categorical(old) if c.old_log_std is None else DiagGaussian(old, c.old_log_std[task].expand_as(old))
            return (weight * old.kl(output)).sum()
        log_prob = output.log_prob(c.target[task])
        if c.kind == Kind.LOG_PROB:
            return -(weight * log_prob).sum()
        ratio = (log_prob - c.log_prob[task]).exp()
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP) if c.kind == Kind.CLIPPED else ratio
        return -(weight * ratio).minimum(weight * clipped).sum()

    def expected(self):
        """Values, gradients and Hessian products of all tasks by autograd."""
        values, gradients, products = [], [], []
        for task in range(TASKS):
            leaves = {name: value.clone().requires_grad_() for name, value in self.of(task).items()}
            loss = self.loss(task, leaves)
            found = torch.autograd.grad(loss, leaves.values(), create_graph=True, materialize_grads=True)
            flat = torch.cat([g.flatten() for g in found])
            vector = self.vector if self.shared else self.vector[task]
            product = torch.autograd.grad(flat, leaves.values(), vector, materialize_grads=True)
            values.append(loss.detach())
            gradients.append(flat.detach())
            products.append(torch.cat([p.flatten() for p in product]))
        return torch.stack(values), torch.stack(gradients), torch.stack(products)

    def expected_fisher(self):
        """Σ w JᵀMJ v of all tasks, with J by autograd."""
        products = []
        for task in range(TASKS):
            at = linearize(functools.partial(self.respond, task), self.of(task))
            tangent = at.jvp(self.network.named(self.vector if self.shared else self.vector[task]))
            weight = self.criterion.weight[task].unsqueeze(-1)
            if isinstance(tangent, torch.Tensor):
                cotangent = 2 * weight * tangent
            else:
                cotangent = type(tangent)(*(weight * leaf for leaf in at.value.fisher(tangent)))
            products.append(self.network.flat(at.vjp(cotangent)))
        return torch.stack(products)


def assert_close(found, expected, tolerance=1e-12):
    error = (found - expected).abs().max() / expected.abs().max()
    assert float(error) < tolerance


def agrees(problem, tolerance=1e-12):
    """Everything with and without kept blocks against autograd."""
    network, theta, inputs, criterion = problem.network, problem.theta, problem.inputs, problem.criterion
    values, gradients, products = problem.expected()
    fisher = problem.expected_fisher()
    found = gradient(network, theta, inputs, criterion, keep=True)
    assert_close(found.value, values, tolerance)
    assert_close(found.gradient, gradients, tolerance)
    outputs, kept = forward(network, theta, inputs, keep=True)
    assert_close(value(network, theta, outputs, criterion), values, tolerance)
    for blocks in (None, found.kept):
        assert_close(hessian_product(network, theta, inputs, criterion, problem.vector, blocks), products, tolerance)
    for blocks in (None, kept):
        product = fisher_product(network, theta, inputs, criterion.weight, problem.vector, blocks)
        assert_close(product, fisher, tolerance)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(("head", "kind"), CRITERIA)
def test_products_are_those_of_autograd(head, kind, hidden, activation):
    agrees(Problem(head, kind, hidden, activation))


@pytest.mark.parametrize("rows", [1, 47, 48, 49, 200])
@pytest.mark.parametrize("shared", [False, True])
def test_any_number_of_rows_with_shared_parameters_or_not(rows, shared):
    agrees(Problem("gaussian", Kind.RATIO, rows=rows, shared=shared))


@pytest.mark.parametrize(("head", "kind"), CRITERIA)
def test_single_precision(head, kind):
    exact, single = Problem(head, kind), Problem(head, kind, dtype=torch.float32)
    found = gradient(single.network, single.theta, single.inputs, single.criterion)
    product = hessian_product(single.network, single.theta, single.inputs, single.criterion, single.vector)
    fisher = fisher_product(single.network, single.theta, single.inputs, single.criterion.weight, single.vector)
    assert {found.value.dtype, found.gradient.dtype, product.dtype} == {torch.float32}
    values, gradients, products = exact.expected()
    assert_close(found.value, values, 1e-5)
    assert_close(found.gradient, gradients, 1e-5)
    assert_close(product, products, 1e-5)
    assert_close(fisher, exact.expected_fisher(), 1e-5)


def test_a_task_alone_has_the_same_bits():
    many = Problem("gaussian", Kind.RATIO)
    together = hessian_product(many.network, many.theta, many.inputs, many.criterion, many.vector)
    for task in range(TASKS):
        own = slice(task, task + 1)
        criterion = Criterion(*(leaf[own] if isinstance(leaf, torch.Tensor) else leaf for leaf in many.criterion))
        alone = hessian_product(many.network, many.theta[own], many.inputs[own], criterion, many.vector[own])
        torch.testing.assert_close(alone, together[own], rtol=0, atol=0)


def test_log_std_learns_where_it_is_at_its_limit():
    """As float32 the limit is below −1.1; a comparison in double precision would say that log σ is below it."""
    config = PolicyConfig((4,), init_log_std=-1.1, min_log_std=-1.1)
    policy, normal = GaussianMLP(3, 2, config, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    inputs, action = torch.randn(1, 7, 3, generator=normal), torch.randn(1, 7, 2, generator=normal)
    network, params = network_of(policy), dict(policy.named_parameters())
    criterion, vector = Criterion(Kind.LOG_PROB, torch.ones(1, 7), action), torch.ones(network.num_parameters)
    found = gradient(network, network.flat(params), inputs, criterion).gradient
    product = hessian_product(network, network.flat(params), inputs, criterion, vector)
    loss = -policy(inputs).log_prob(action).sum()
    parts = torch.cat([part.flatten() for part in torch.autograd.grad(loss, policy.parameters(), create_graph=True)])
    products = torch.autograd.grad(parts, policy.parameters(), vector)
    assert_close(found[0], parts.detach(), 1e-5)
    assert_close(product[0], network.flat(dict(zip(params, products, strict=True))), 1e-5)


def test_numbers_that_are_not_finite_stay():
    problem = Problem("gaussian", Kind.CLIPPED)
    problem.inputs[1, 3, 0] = math.nan
    found = gradient(problem.network, problem.theta, problem.inputs, problem.criterion)
    assert found.value.isnan().tolist() == [False, True] and found.gradient[1].isnan().any()


def test_parameters_by_name_and_as_vectors():
    problem = Problem("gaussian", Kind.KL)
    named = problem.network.named(problem.theta)
    assert named.keys() == problem.params.keys()
    assert all(torch.equal(named[name], problem.params[name]) for name in named)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 1)),
        nn.Sequential(nn.Linear(2, 3), nn.Tanh()),
        nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1)),
        nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1, bias=False)),
        nn.Sequential(nn.Conv1d(2, 3, 1), nn.Tanh(), nn.Linear(3, 1)),
        nn.Sequential(*[nn.Linear(1, 1), nn.Tanh()] * 2, nn.Linear(1, 1)),
        nn.Sequential(*itertools.chain(*[(nn.Linear(1, 1), nn.Tanh()) for _ in range(32)]), nn.Linear(1, 1)),
        nn.GRUCell(2, 3),
        nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(3, 1)),
    ],
    ids=["gelu", "no last layer", "two activations", "no bias", "convolution", "tied", "33 layers", "gru", "broken"],
)
def test_other_models_are_no_network(model):
    assert network_of(model) is None


def test_parameters_that_torch_would_expand_make_no_network():
    policy, layers = make_model("gaussian", (4,), "tanh"), make_model("plain", (4,), "tanh")
    policy.log_std = nn.Parameter(torch.zeros(1))
    layers[0].bias = nn.Parameter(torch.zeros(1))
    assert network_of(policy) is None and network_of(layers) is None


def test_a_model_with_a_hook_or_of_a_subclass_is_no_network():
    class Scaled(GaussianMLP):
        pass

    hooked = make_model("gaussian", (4,), "tanh")
    hooked.mean[0].register_forward_hook(lambda *_: None)
    own = Scaled(2, 1, PolicyConfig(), torch.Generator())
    assert network_of(hooked) is None and network_of(own) is None


def test_a_model_whose_derivatives_or_outputs_are_replaced_is_no_network():
    hooked, replaced = (make_model("gaussian", (4,), "tanh") for _ in range(2))
    hooked.mean[0].register_full_backward_hook(lambda *_: None)
    replaced.mean[0].forward = lambda inputs: inputs.new_zeros(*inputs.shape[:-1], 4)
    assert network_of(hooked) is None and network_of(replaced) is None


def test_parameters_that_are_not_served(monkeypatch):
    problem = Problem("gaussian", Kind.KL)
    network, params = problem.network, problem.params
    assert serves(network, params) and serves(network, problem.of(0))
    assert not serves(network, {name: value.half() for name, value in params.items()})
    assert not serves(network, {**params, "log_std": params["log_std"].float()})
    assert not serves(network, {**params, "log_std": params["log_std"][..., :1]})
    assert not serves(network, {name: value for name, value in params.items() if name != "log_std"})
    assert not serves(network, {name: value.to("meta") for name, value in params.items()})
    monkeypatch.setattr(mlp_kernel, "_load", lambda dtype: None)  # no compiler
    assert not serves(network, params)


def test_arguments_that_do_not_fit_are_refused():
    problem = Problem("categorical", Kind.RATIO)
    network, theta, inputs, criterion = problem.network, problem.theta, problem.inputs, problem.criterion
    for wrong in ({"target": None}, {"target": criterion.target.float()}, {"weight": criterion.weight[:, :-1]}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: .* RATIO needs"):
            gradient(network, theta, inputs, criterion._replace(**wrong))
    with pytest.raises(IndexError, match="actions from 0 to 4"):
        gradient(network, theta, inputs, criterion._replace(target=criterion.target + 1))
    with pytest.raises(ValueError, match="vectors: "):
        hessian_product(network, theta, inputs, criterion, problem.vector[:1])
    with pytest.raises(ValueError, match="inputs: "):
        forward(network, theta, inputs[..., :-1])
    kept = forward(network, theta, inputs, keep=True)[1]
    with pytest.raises(ValueError, match="kept: "):
        hessian_product(network, theta, inputs, criterion, problem.vector, kept)
    with pytest.raises(ValueError, match=r"kind=SQUARED: .* categorical"):  # would read actions as numbers
        gradient(network, theta, inputs, criterion._replace(kind=Kind.SQUARED))
    with pytest.raises(ValueError, match=r"inputs: .* on meta"):  # the address of another device
        gradient(network, theta, inputs.to("meta"), criterion)
    with pytest.raises(ValueError, match=r"weight: .* on meta"):
        gradient(network, theta, inputs, criterion._replace(weight=criterion.weight.to("meta")))
    plain = Problem("plain", Kind.SQUARED)
    with pytest.raises(ValueError, match="no distribution"):
        gradient(plain.network, plain.theta, plain.inputs, plain.criterion._replace(kind=Kind.LOG_PROB))


@pytest.mark.parametrize("head", ["gaussian", "limited", "categorical"])
def test_a_further_criterion_adds_its_gradient_to_a_hessian_product(head):
    problem = Problem(head, Kind.RATIO, hidden=(9, 5, 4), shared=True)
    network, theta, inputs, criterion = problem.network, problem.theta, problem.inputs, problem.criterion
    further = criterion._replace(kind=Kind.KL)
    product = hessian_product(network, theta, inputs, criterion, problem.vector)
    expected = product + gradient(network, theta, inputs, further).gradient
    kept = gradient(network, theta, inputs, criterion, keep=True).kept
    for blocks in (None, kept):
        found = hessian_product(network, theta, inputs, criterion, problem.vector, blocks, further)
        assert_close(found, expected)
        assert float((found - product).abs().max()) > 1e-3
    assert_close(hessian_product(network, theta, inputs, criterion, problem.vector, kept), product)
