"""A two-part model of tables and a linear layer, plain or wrapped, and batches that try every kind of bag."""

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

FEATURES = ["item", "brand", "recent", "user"]
# Repeated ids within a bag (3, 3), across bags (3 again) and across features (item and recent share a table), and
# empty bags; brand is never looked up in the second batch.
BAGS = [
    {
        "item": [[3], [3], [1], [0]],
        "brand": [[1], [], [2], [1]],
        "recent": [[3, 3, 1], [], [2], [4, 3]],
        "user": [[0], [2], [2], [1]],
    },
    {
        "item": [[2], [4], [2], [2]],
        "brand": [[], [], [], []],
        "recent": [[], [1, 1], [1], [0, 0]],
        "user": [[2], [2], [2], [0]],
    },
]


def keyed_ids(bags: dict[str, list[list[int]]], weighted: bool = False) -> KeyedJaggedTensor:
    """Put bags of ids into a KeyedJaggedTensor; weights grow with the position of the id."""
    values = [i for feature in FEATURES for bag in bags[feature] for i in bag]
    return KeyedJaggedTensor(
        keys=FEATURES,
        values=torch.tensor(values, dtype=torch.int64),
        lengths=torch.tensor([len(bag) for feature in FEATURES for bag in bags[feature]], dtype=torch.int32),
        weights=torch.arange(1.0, len(values) + 1) / len(values) if weighted else None,
    )


class Part(nn.Module):
    """Tables under `ebc` and a linear layer over their vectors."""

    def __init__(self, tables: list[EmbeddingBagConfig], weighted: bool = False) -> None:
        super().__init__()
        self.ebc = EmbeddingBagCollection(tables=tables, is_weighted=weighted)
        self.is_frozen = False
        self.keys = [feature for table in tables for feature in table.feature_names]
        self.linear = nn.Linear(sum(t.embedding_dim * len(t.feature_names) for t in tables), 1)

    def train(self, mode: bool = True) -> "Part":
        return super().train(mode and not self.is_frozen)

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            return self.linear(KeyedTensor.regroup([self.ebc(ids)], [self.keys])[0]).squeeze(1)


class TwoParts(nn.Module):
    """`embedding_tower` over items (one table behind two features) and brands, `interaction_network` over users."""

    def __init__(self, pooling: PoolingType, *, brand_width: int = 8, weighted: bool = False, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)

        def table(name: str, rows: int, width: int, features: list[str]) -> EmbeddingBagConfig:
            return EmbeddingBagConfig(
                name=name, embedding_dim=width, num_embeddings=rows, feature_names=features, pooling=pooling
            )

        tower_tables = [table("item_rows", 5, 8, ["item", "recent"]), table("brand_rows", 3, brand_width, ["brand"])]
        self.embedding_tower = Part(tower_tables, weighted)
        self.interaction_network = Part([table("user_rows", 3, 4, ["user"])], weighted)

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        return self.embedding_tower(ids) * self.interaction_network(ids)


def loss_of(model: nn.Module, ids: KeyedJaggedTensor) -> Tensor:
    """Half the mean of squares of what the model returns, less a target of one."""
    return 0.5 * (model(ids) - 1).square().mean()


def norm(tensors: list[Tensor]) -> float:
    """The L2 norm of all elements together."""
    return sum(tensor.double().square().sum().item() for tensor in tensors) ** 0.5


def norms_by_hand(model: nn.Module) -> dict[str, float]:
    """The gradient norms of a plain model's parts and of their halves, straight from `.grad`."""
    parts, halves = {}, {}
    for name, child in model.named_children():
        gradients = {key: p.grad for key, p in child.named_parameters() if p.grad is not None}
        parts[name] = norm(list(gradients.values()))
        for half, is_table in (("tables", True), ("dense", False)):
            chosen = [gradient for key, gradient in gradients.items() if ("embedding_bags" in key) == is_table]
            halves[f"{name}/{half}"] = norm(chosen)
    return parts | {"whole": sum(value**2 for value in parts.values()) ** 0.5} | halves
