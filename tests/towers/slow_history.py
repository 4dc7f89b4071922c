"""A history tower in plain Python loops over rows and events, which `HistoryTower` and its gradients must equal."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tests.towers.eventful_rows import EventfulRow

GAPS = (1 / 1440, 1 / 144, 1 / 24, 1, 7, 30)


def slow_tower(weights: Mapping[str, Tensor], rows: Sequence[EventfulRow]) -> Tensor:
    """Return the tower's output for the rows, (B, output_width), from the weights by their names in it."""
    return torch.stack([_of_row(weights, row) for row in rows])


def _of_row(weights: Mapping[str, Tensor], row: EventfulRow) -> Tensor:
    def table(source: str, name: str, row_of_table: int) -> Tensor:
        return weights[f"sources.{source}.ebc.embedding_bags.tower_{name}.weight"][row_of_table]

    sides = {
        "user": [(event[0], event[1], event[2], None) for event in row.met],
        "item": [(event[0], event[2], event[3], event[1]) for event in row.by],
    }
    met_table, own_id = {"user": "item_id", "item": "user_id"}, {"user": row.item, "item": row.user}
    residuals, parts = {}, []
    for side, events in sides.items():
        prior = _softplus(weights[f"biases.{side}.prior"][0])
        bias = sum((torch.tensor(event[1]) for event in events), torch.tensor(0.0)) / (len(events) + prior)
        residuals[side] = [event[1] - bias for event in events]
        parts += [bias, torch.tensor(math.log1p(len(events)))]
    for side, events in sides.items():

        def key(source: str, number: int, side: str = side) -> Tensor:
            return table(source, met_table[side], number)

        heads = [f"{side}_recency", f"{side}_ids"]
        heads += ["user_vectors", "user_projected"] if side == "user" else ["item_attributes"]
        for name in heads:
            kernel = f"heads.{name}.kernel."
            weighed = torch.tensor(0.0)
            total = torch.tensor(0.0)
            for place, (number, _, age, city) in enumerate(events):
                score = weights[f"{kernel}rank"][min(7, (len(events) - 1 - place).bit_length())] - 1
                score = score + weights[f"{kernel}gap"][sum(abs(age) > edge for edge in GAPS) + 7 * (age < 0)]
                if name.endswith("_ids"):
                    own, other = key("ids", own_id[side]), key("ids", number)
                    score = score + other[4:].mean()
                    pair = own[:4], other[:4]
                elif name.endswith("attributes"):
                    assert city is not None
                    pair = table("attributes", "city", row.city), table("attributes", "city", city)
                elif not name.endswith("recency"):
                    pair = key("vectors", own_id[side]), key("vectors", number)
                    if name.endswith("projected"):
                        matrix = weights[f"heads.{name}.projection.weight"]
                        pair = matrix @ pair[0], matrix @ pair[1]
                if not name.endswith("recency"):
                    score = score + weights[f"{kernel}sharpness"] * _cosine(*pair)
                weight = score.exp()
                weighed, total = weighed + weight * residuals[side][place], total + weight
            parts += [weighed / (_softplus(weights[f"{kernel}prior"]) + total), torch.log1p(total)]
    profiles = {}
    for side, events in sides.items():
        start = f"factors.profiles.{side}."
        read = torch.zeros(4)
        for (number, *_), residual in zip(events, residuals[side], strict=True):
            read = read + weights[f"{start}share"][0] * residual * table("factors", met_table[side], number)[4:]
        profiles[side] = read / (len(events) + _softplus(weights[f"{start}prior"])).sqrt()
    p = profiles["user"] + table("factors", "user_id", row.user)[:4] * bool(sides["user"])
    q = profiles["item"] + table("factors", "item_id", row.item)[:4] * bool(sides["item"])
    return torch.cat([torch.stack(parts), p, q, p * q])


def _softplus(number: Tensor) -> Tensor:
    return torch.log1p(number.exp())


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other) / ((one @ one + 1e-6) * (other @ other + 1e-6)).sqrt()
