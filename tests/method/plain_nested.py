"""The compositions that stand on another one, by hand: one row at a time, as `plain_ranker.py`."""

import torch

from tests.method.plain_ranker import (
    Parameters,
    PlainRanker,
    Vector,
    expert,
    linear,
)
from tests.small_model import Row


def concat(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    tower, network = (
        linear(p, f"composition.inner.projection.{name}", x)
        for name, x in (("tower", model.tower(p, row)), ("network", model.network(p, row)))
    )
    return torch.cat([tower, network])


def relu(x: Vector) -> Vector:
    return torch.clamp(x, min=0)


def gate_unit(p: Parameters, name: str, prior: Vector, x: Vector) -> Vector:
    """The paper reads x without its gradient."""
    hidden = relu(linear(p, f"{name}.hidden", torch.cat([prior, x.detach()])))
    return 2 / (1 + torch.exp(-linear(p, f"{name}.output", hidden)))


def shared_and_residual(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    x, own = concat(model, p, row), f"composition.segments.{row.segment}"
    residual = linear(p, f"{own}.output", relu(linear(p, f"{own}.hidden.layers.0", x)))
    return expert(p, "composition.shared", x) + residual


def shared_and_low_rank(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    x, own = concat(model, p, row), f"composition.segments.{row.segment}"
    return expert(p, "composition.shared", x) + p[f"{own}.output.weight"] @ (p[f"{own}.hidden.weight"] @ x)


def star(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    x = concat(model, p, row)
    for layer in range(2):
        shared, own = f"composition.shared.{layer}", f"composition.segments.{row.segment}"
        weight = p[f"{shared}.weight"] * p[f"{own}.factors.{layer}"]
        x = relu(weight @ x + p[f"{shared}.bias"] + p[f"{own}.biases.{layer}"])
    return x


def epnet(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    x = concat(model, p, row)
    return gate_unit(p, "composition.gate", p[f"composition.segments.{row.segment}.vector"], x) * x


def ppnet(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    x = joined = concat(model, p, row)
    prior = torch.cat([p[f"composition.segments.{row.segment}.vector"], model.tower(p, row)])
    for layer in range(2):
        gate = gate_unit(p, f"composition.gates.{layer}", prior, joined)
        x = relu(linear(p, f"composition.layers.{layer}", gate * x))
    return x


def segment_linear(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    tower = model.tower(p, row)
    own = linear(p, f"composition.segments.{row.segment}", tower)
    return torch.cat([concat(model, p, row), linear(p, "composition.shared", tower) + own])


PLAIN = {
    "shared and residual experts": shared_and_residual,
    "shared and low-rank experts": shared_and_low_rank,
    "star": star,
    "epnet": epnet,
    "ppnet": ppnet,
    "segment linear": segment_linear,
}
