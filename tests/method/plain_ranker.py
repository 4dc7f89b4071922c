"""The whole ranker once more, written by hand: one row at a time, plain tensors, no module and no code of recsys.

Every function takes the parameters by the names that the ranker gives them, and follows the papers' formulas literally.
The tests compare gradients, so what counts is that this file is short enough to be believed.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from tests.small_model import Row

Parameters = Mapping[str, Tensor]
Vector = Tensor


def linear(p: Parameters, name: str, x: Vector) -> Vector:
    return p[f"{name}.weight"] @ x + p[f"{name}.bias"]


def mean_of_rows(table: Tensor, ids: Sequence[int]) -> Vector:
    total = torch.zeros(table.shape[1], dtype=table.dtype)
    for i in ids:
        total = total + table[i]
    return total / max(1, len(ids))


def numbers(p: Parameters, *values: float) -> Vector:
    return torch.tensor(values, dtype=next(iter(p.values())).dtype)


def two_tower(p: Parameters, row: Row) -> Vector:
    """[u, v, u * v], where u and v have length sqrt(D)."""
    bags = "embedding_tower.ebc.embedding_bags.tower_"
    users, items, brands = (p[f"{bags}{table}.weight"] for table in ("user_id", "item_id", "brand"))
    user = torch.cat([mean_of_rows(users, [row.user_id]), mean_of_rows(items, row.recent), numbers(p, row.age)])
    item = torch.cat([mean_of_rows(items, [row.item_id]), mean_of_rows(brands, [row.brand]), numbers(p, row.price)])
    sides = []
    for name, x in (("user_side", user), ("item_side", item)):
        hidden = torch.clamp(linear(p, f"embedding_tower.{name}.0.0", x), min=0)
        side = linear(p, f"embedding_tower.{name}.1", hidden)
        sides.append(side / torch.sqrt((side * side).sum()) * math.sqrt(len(side)))
    u, v = sides
    return torch.cat([u, v, u * v])


def imported_tower(p: Parameters, row: Row) -> Vector:
    """[u, v, u * v], where v is the item's vector and u the mean of the recent items'."""
    items = p["embedding_tower.ebc.embedding_bags.tower_item_id.weight"]
    u, v = mean_of_rows(items, row.recent), items[row.item_id]
    return torch.cat([u, v, u * v])


def fields(p: Parameters, row: Row, tower_field: Vector | None) -> list[Vector]:
    bags = "interaction_network.fields.ebc.embedding_bags.network_"
    users, items, segments = (p[f"{bags}{table}.weight"] for table in ("user_id", "item_id", "user segment"))
    vectors = [users[row.user_id], items[row.item_id], mean_of_rows(items, row.recent), segments[row.segment]]
    weight, bias = p["interaction_network.fields.dense_weight"], p["interaction_network.fields.dense_bias"]
    for i, value in enumerate((row.age, row.price)):
        vectors.append(torch.clamp(value * weight[i] + bias[i], min=0))
    return vectors if tower_field is None else [*vectors, tower_field]


def cross(p: Parameters, vectors: list[Vector]) -> Vector:
    x0 = x = torch.cat(vectors)
    for layer in range(2):
        x = x0 * linear(p, f"interaction_network.crossing.linears.{layer}", x) + x
    return x


def cross_low_rank(p: Parameters, vectors: list[Vector]) -> Vector:
    x0 = x = torch.cat(vectors)
    for layer in range(2):
        name = f"interaction_network.crossing.linears.{layer}"
        u, v, b = p[f"{name}.1.weight"], p[f"{name}.0.weight"].T, p[f"{name}.1.bias"]
        x = x0 * (u @ (v.T @ x) + b) + x
    return x


def cross_mixture(p: Parameters, vectors: list[Vector]) -> Vector:
    """Three experts of rank 2, their matrices side by side, weighed by a softmax."""
    x0 = x = torch.cat(vectors)
    for layer in range(2):
        name = f"interaction_network.crossing.linears.{layer}"
        u, v, b = p[f"{name}.u.weight"], p[f"{name}.v.weight"].T, p[f"{name}.u.bias"]
        gates = torch.exp(p[f"{name}.gate.weight"] @ x)
        experts = [x0 * (u[:, i : i + 2] @ (v[:, i : i + 2].T @ x) + b) for i in (0, 2, 4)]
        x = sum((g / gates.sum() * expert for g, expert in zip(gates, experts, strict=True)), x)
    return x


def factorisation_machine(p: Parameters, vectors: list[Vector]) -> Vector:
    pairs = [vectors[i] * vectors[j] for i in range(len(vectors)) for j in range(i + 1, len(vectors))]
    return torch.stack(pairs).sum(dim=0)


def summed_factorisation_machine(p: Parameters, vectors: list[Vector]) -> Vector:
    return factorisation_machine(p, vectors).sum().reshape(1)


def two_streams(p: Parameters, vectors: list[Vector]) -> Vector:
    """Streams of widths (8, 4) and (6), two heads, 7 numbers."""
    e, name = torch.cat(vectors), "interaction_network.crossing"
    streams = []
    for stream, layers in enumerate(((0, 2), (0,))):
        gate = f"{name}.gates.{stream}.gate"
        h = 2 / (1 + torch.exp(-linear(p, f"{gate}.2", torch.clamp(linear(p, f"{gate}.0", e), min=0)))) * e
        for layer in layers:
            h = torch.clamp(linear(p, f"{name}.streams.{stream}.layers.{layer}", h), min=0)
        streams.append(h)
    o1, o2 = streams
    first, second, products = (p[f"{name}.fusion.{part}.weight"] for part in ("first", "second", "products"))
    fused = []
    for number in range(7):
        w = products[number].reshape(2, 2, 3)
        bilinear = sum(o1[2 * k : 2 * k + 2] @ w[k] @ o2[3 * k : 3 * k + 3] for k in range(2))
        fused.append(p[f"{name}.fusion.first.bias"][number] + first[number] @ o1 + second[number] @ o2 + bilinear)
    return torch.stack(fused)


def dot(p: Parameters, vectors: list[Vector]) -> Vector:
    products = [(vectors[i] * vectors[j]).sum() for i in range(len(vectors)) for j in range(i + 1, len(vectors))]
    return torch.cat([*vectors, torch.stack(products)])


def flat(p: Parameters, vectors: list[Vector]) -> Vector:
    return torch.cat(vectors)


def layer_norm(x: Vector, gain: Vector, bias: Vector) -> Vector:
    centred = x - x.mean()
    return centred / torch.sqrt((centred * centred).mean() + 1e-5) * gain + bias


def mask_block(p: Parameters, name: str, guide: Vector, x: Vector) -> Vector:
    mask = linear(p, f"{name}.mask.2", torch.clamp(linear(p, f"{name}.mask.0", guide), min=0))
    hidden = p[f"{name}.linear.weight"] @ (mask * x)
    return torch.clamp(layer_norm(hidden, p[f"{name}.norm.weight"], p[f"{name}.norm.bias"]), min=0)


def normed_fields(p: Parameters, vectors: list[Vector]) -> Vector:
    gain, bias = p["interaction_network.crossing.norm.gain"], p["interaction_network.crossing.norm.bias"]
    return torch.cat([layer_norm(x, gain[i], bias[i]) for i, x in enumerate(vectors)])


def mask_serial(p: Parameters, vectors: list[Vector]) -> Vector:
    guide, x = torch.cat(vectors), normed_fields(p, vectors)
    for block in range(2):
        x = mask_block(p, f"interaction_network.crossing.blocks.{block}", guide, x)
    return x


def mask_parallel(p: Parameters, vectors: list[Vector]) -> Vector:
    guide, x = torch.cat(vectors), normed_fields(p, vectors)
    return torch.cat([mask_block(p, f"interaction_network.crossing.blocks.{block}", guide, x) for block in range(2)])


def first_order(p: Parameters, row: Row) -> Tensor:
    """One weight per id and per number, where an id's is the mean of its table's columns."""
    tables = "head.first_order.ebc.embedding_bags.first_order_"
    users, items, recent = (p[f"{tables}{feature}.weight"].mean(dim=1) for feature in ("user_id", "item_id", "recent"))
    of_list = sum((recent[i] for i in row.recent), numbers(p, 0.0)[0]) / max(1, len(row.recent))
    dense = p["head.first_order.dense_weight"]
    return users[row.user_id] + items[row.item_id] + of_list + row.age * dense[0] + row.price * dense[1]


class PlainRanker:
    """One row's logit: `compose` joins what the tower and the network say."""

    def __init__(
        self,
        compose: Callable[["PlainRanker", Parameters, Row], Vector],
        *,
        tower: Callable[[Parameters, Row], Vector] = two_tower,
        crossing: Callable[[Parameters, list[Vector]], Vector] = cross,
    ) -> None:
        self.compose, self.tower, self.crossing = compose, tower, crossing

    def network(self, p: Parameters, row: Row, tower_field: Vector | None = None) -> Vector:
        crossed = self.crossing(p, fields(p, row, tower_field))
        return torch.clamp(linear(p, "interaction_network.deep.layers.0", crossed), min=0)

    def branches(self, p: Parameters, row: Row) -> tuple[Vector, Vector]:
        return (
            linear(p, "composition.projection.tower", self.tower(p, row)),
            linear(p, "composition.projection.network", self.network(p, row)),
        )

    def logits(self, p: Parameters, rows: Sequence[Row]) -> Tensor:
        result = []
        for row in rows:
            hidden = torch.clamp(linear(p, "head.hidden.layers.0", self.compose(self, p, row)), min=0)
            result.append(linear(p, "head.output", hidden)[0] + first_order(p, row))
        return torch.stack(result)

    def loss(self, p: Parameters, rows: Sequence[Row]) -> Tensor:
        """Mean of -log(probability of the label)."""
        total = numbers(p, 0.0)[0]
        for row, logit in zip(rows, self.logits(p, rows), strict=True):
            probability = 1 / (1 + torch.exp(-logit))
            total = total - torch.log(probability if row.label else 1 - probability)
        return total / len(rows)


def sequential(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    return model.network(p, row, linear(p, "composition.tower_field", model.tower(p, row)))


def parallel_concat(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    return torch.cat(model.branches(p, row))


def parallel_sum(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    tower, network = model.branches(p, row)
    return tower + network


def parallel_product(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    tower, network = model.branches(p, row)
    return tower * network


def parallel_gate(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    tower, network = model.branches(p, row)
    gate = 1 / (1 + torch.exp(-linear(p, "composition.join.gate", torch.cat([tower, network]))))
    return gate * tower + (1 - gate) * network


def gated(p: Parameters, name: str, tower: Vector, network: Vector) -> Vector:
    logits = p[f"{name}.logits"]
    share = torch.exp(logits[0]) / (torch.exp(logits[0]) + torch.exp(logits[1]))
    return share * tower + (1 - share) * network


def expert(p: Parameters, name: str, x: Vector) -> Vector:
    hidden = torch.clamp(linear(p, f"{name}.hidden.layers.0", x), min=0)
    return x + linear(p, f"{name}.output", hidden)


def conditional_gate(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    return gated(p, f"composition.segments.{row.segment}", *model.branches(p, row))


def conditional_gate_and_experts(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    name = f"composition.segments.{row.segment}"
    return expert(p, f"{name}.1", gated(p, f"{name}.0", *model.branches(p, row)))


def parallel_conditional(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    tower, network = model.branches(p, row)
    name = f"composition.segments.{row.segment}"
    return torch.cat([tower, network, expert(p, f"{name}.1", gated(p, f"{name}.0", tower, network))])


ROUTES = (("embedding_tower",), ("interaction_network",), ("embedding_tower", "interaction_network"))


def routed_by(routes: Sequence[Sequence[str]]) -> Callable[[PlainRanker, Parameters, Row], Vector]:
    def compose(model: PlainRanker, p: Parameters, row: Row) -> Vector:
        joined = 0 * p["composition.projection.tower.bias"].detach()
        if "embedding_tower" in routes[row.segment]:
            joined = joined + linear(p, "composition.projection.tower", model.tower(p, row))
        if "interaction_network" in routes[row.segment]:
            joined = joined + linear(p, "composition.projection.network", model.network(p, row))
        return joined

    return compose


def routed_with_experts(model: PlainRanker, p: Parameters, row: Row) -> Vector:
    return expert(p, f"composition.experts.{row.segment}", routed_by(ROUTES)(model, p, row))
