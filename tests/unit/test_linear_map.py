"""Products with a Jacobian against the Jacobian itself."""

import torch

from research.optim.linear_map import linearize


def function(inputs):
    a, b = inputs["a"], inputs["b"]
    return (a.sin() * b.sum(), (a @ a.T).exp())


def point():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return {"a": a, "b": torch.randn(4, generator=generator, dtype=torch.float64), "unused": torch.ones(2)}


def test_products_match_the_explicit_jacobian():
    inputs = point()
    linear = linearize(function, inputs)
    jacobian = torch.autograd.functional.jacobian(lambda a, b: function({"a": a, "b": b}), (inputs["a"], inputs["b"]))
    tangent = {name: torch.randn_like(value) for name, value in inputs.items()}
    for row, pushed in zip(jacobian, linear.jvp(tangent), strict=True):
        expected = torch.tensordot(row[0], tangent["a"], 2) + torch.tensordot(row[1], tangent["b"], 1)
        torch.testing.assert_close(pushed, expected)
    cotangent = tuple(torch.randn_like(value) for value in linear.value)
    pulled = linear.vjp(cotangent)
    for index, name in enumerate(("a", "b")):
        expected = sum(torch.tensordot(c, row[index], c.ndim) for c, row in zip(cotangent, jacobian, strict=True))
        torch.testing.assert_close(pulled[name], expected)
    assert torch.equal(pulled["unused"], torch.zeros(2))


def test_products_can_be_repeated_and_leave_no_graph():
    inputs = point()
    linear = linearize(function, inputs)
    tangent = {name: torch.ones_like(value) for name, value in inputs.items()}
    first, second = linear.jvp(tangent), linear.jvp(tangent)
    assert all(torch.equal(x, y) and not x.requires_grad for x, y in zip(first, second, strict=True))
    assert not any(value.requires_grad for value in linear.value)
    assert not any(value.requires_grad for value in inputs.values())


def test_constant_functions_have_zero_derivatives():
    linear = linearize(lambda inputs: {"c": torch.ones(3)}, {"x": torch.ones(2)})
    assert torch.equal(linear.jvp({"x": torch.ones(2)})["c"], torch.zeros(3))
    assert torch.equal(linear.vjp({"c": torch.ones(3)})["x"], torch.zeros(2))
