"""Two steps of a model whose tables take the mean of weighted ids: by its wrapper, and by hand."""

import copy
from itertools import product

import pytest
import torch
from torch import nn
from torchrec.modules.embedding_configs import PoolingType
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedTensor

from recsys.monitoring.gradient_norms import gradient_norms
from recsys.sharding.gate import TableGate
from recsys.sharding.inventory import inventory_of
from recsys.sharding.whole_state import table_weights
from recsys.sharding.wrap import TableOptimizer, average_dense_gradients, wrap_ranker
from tests.sharding.tables import BAGS, TwoParts, keyed_ids, loss_of, norms_by_hand

PARTS = ("embedding_tower", "interaction_network")
RATE = 0.125
RULES = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "rowwise_adagrad": RowWiseAdagrad}
SHARDINGS = ("table_wise", "row_wise", "column_wise", "data_parallel")
# The two that do not go together: see `wrap_ranker`.
KINDS = [kind for kind in product(SHARDINGS, RULES) if kind != ("column_wise", "rowwise_adagrad")]


class MeansByHand(nn.Module):
    """A collection's tables, and the formula."""

    def __init__(self, collection):
        super().__init__()
        self.embedding_bags = collection.embedding_bags
        self.configs = collection.embedding_bag_configs()

    def forward(self, ids):
        pooled = {}
        for config in self.configs:
            for feature in config.feature_names:
                values, weights = ids[feature].values(), ids[feature].weights()
                rows, start = [], 0
                for length in ids[feature].lengths().tolist():
                    bag = slice(start, start + length)
                    summed = (self.embedding_bags[config.name].weight[values[bag]] * weights[bag, None]).sum(dim=0)
                    rows.append(summed / max(1, length))
                    start += length
                pooled[feature] = torch.stack(rows)
        return KeyedTensor(
            list(pooled), [vectors.shape[1] for vectors in pooled.values()], torch.cat([*pooled.values()], 1)
        )


def plain_model():
    plain = TwoParts(PoolingType.MEAN, weighted=True)
    for part in PARTS:
        child = plain.get_submodule(part)
        child.ebc = MeansByHand(child.ebc)
    return plain


def wrapped_model(context, sharding, rule):
    optimizers = dict.fromkeys(PARTS, TableOptimizer(rule, RATE))
    model = TwoParts(PoolingType.MEAN, weighted=True)
    wrapped = wrap_ranker(model, optimizers, context, dict.fromkeys(PARTS, sharding))
    return wrapped, TableGate(wrapped)


def take_steps(context, sharding, rule):
    """Two steps of the wrapped model, each process on its own batch: outputs, norms and tables after each."""
    wrapped, gate = wrapped_model(context, sharding, rule)
    seen = []
    for step in range(2):
        ids = keyed_ids(BAGS[(step + context.rank) % 2], weighted=True).to(context.device)
        for parameter in inventory_of(wrapped).dense_parameters().values():
            parameter.grad = None
        logits = wrapped(ids)
        loss_of(lambda _, logits=logits: logits, ids).backward()
        average_dense_gradients(inventory_of(wrapped).averaged_parameters(), context)
        norms = gradient_norms(wrapped, gate, context)
        gate.release(torch.tensor(True))
        tables = {name: weight.flatten().tolist() for name, weight in table_weights(wrapped).items()}
        seen.append({"logits": logits.tolist(), "norms": norms, "tables": tables})
    return seen


def take_steps_by_hand(rule, processes):
    plain = plain_model()
    tables = {name: parameter for name, parameter in plain.named_parameters() if "embedding_bags" in name}
    optimizer = RULES[rule](tables.values(), lr=RATE, **({} if rule == "sgd" else {"eps": 1e-8}))
    seen = []
    for step in range(2):
        plain.zero_grad()
        batches = [keyed_ids(BAGS[(step + rank) % 2], weighted=True) for rank in range(processes)]
        logits = [plain(ids).tolist() for ids in batches]
        for ids in batches:
            (loss_of(plain, ids) / processes).backward()
        norms = norms_by_hand(plain)
        optimizer.step()
        moved = {name: parameter.detach().flatten().tolist() for name, parameter in tables.items()}
        seen.append({"logits": logits, "norms": norms, "tables": copy.deepcopy(moved)})
    return seen


def assert_equal(found, expected, rank):
    for mine, hand in zip(found, expected, strict=True):
        assert mine["logits"] == pytest.approx(hand["logits"][rank], rel=1e-5, abs=1e-6)
        assert mine["norms"] == pytest.approx(hand["norms"], rel=1e-5)
        for name, numbers in hand["tables"].items():
            assert mine["tables"][name] == pytest.approx(numbers, rel=1e-5, abs=1e-6), name
