"""The sequence tower and its loss, row by row and head by head, in loops: to check the fast ones by."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

TABLE = "items.ebc.embedding_bags.tower_item_id.weight"


def slow_outputs(weights: Mapping[str, Tensor], items: Sequence[Tensor], *, blocks: int, heads: int) -> Tensor:
    """What a list of items' vectors (D,) says before the first and after each: (n + 1, D)."""
    start = weights["encoder.start"]
    width = len(start)
    rows = [vector * math.sqrt(width) for vector in (start, *items)]
    for number in range(blocks):
        own = {
            name.removeprefix(f"encoder.blocks.{number}."): value
            for name, value in weights.items()
            if name.startswith(f"encoder.blocks.{number}.")
        }
        rows = [row + read for row, read in zip(rows, _attended(own, rows, heads), strict=True)]
        rows = [row + _layers(own, row) for row in rows]
    return torch.stack([_normed(weights, "encoder.norm", row) for row in rows])


def _attended(own: Mapping[str, Tensor], rows: Sequence[Tensor], heads: int) -> list[Tensor]:
    mixed = [_linear(own, "queries_keys_values", _normed(own, "attention_norm", row)) for row in rows]
    width = len(rows[0])
    size = width // heads
    read = []
    for place in range(len(rows)):
        parts = []
        for head in range(heads):
            query, key, value = (slice(of * width + head * size, of * width + (head + 1) * size) for of in range(3))
            scores = [
                mixed[place][query] @ mixed[before][key] / math.sqrt(size) + own["position"][head, place - before]
                for before in range(place + 1)
            ]
            shares = torch.stack(scores).softmax(dim=0)
            parts.append(sum(share * mixed[before][value] for before, share in enumerate(shares)))
        read.append(_linear(own, "attended", torch.cat(parts)))
    return read


def _layers(own: Mapping[str, Tensor], row: Tensor) -> Tensor:
    return _linear(own, "layers.3", gelu(_linear(own, "layers.0", _normed(own, "layer_norm", row))))


def _linear(weights: Mapping[str, Tensor], name: str, row: Tensor) -> Tensor:
    return weights[f"{name}.weight"] @ row + weights[f"{name}.bias"]


def _normed(weights: Mapping[str, Tensor], name: str, row: Tensor) -> Tensor:
    return layer_norm(row, row.shape, weights[f"{name}.weight"], weights[f"{name}.bias"])
