"""Where a ranker's tables would lie on a cluster, what they would take, and what would make them fit: a dry run.

Tables come from prepared data, from a schema with rows that are stated, or are stated one by one: no data are needed,
no process group, and no device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from recsys.build import build_ranker, build_rates, build_spec
from recsys.build_objective import ORDINAL
from recsys.config import RunConfig
from recsys.errors import UsageError
from recsys.features.contract import FeatureContract
from recsys.features.schema import FeatureSchema, load_schema
from recsys.progress import Progress
from recsys.run import prepare
from recsys.run.planned_cluster import batch_rows_of, cluster_of, rules_of
from recsys.run.seen_ids import widest_rungs
from recsys.sharding.plan_rules import dense_bytes, require_known, require_whole_rows, tables_to_place
from recsys.sharding.planned_tables import TableToPlace
from recsys.sharding.table_plan import TablePlan, plan_tables
from recsys.training.stages import optimizers_in

_TABLES_OF = "embedding_tower"  # of which part a table is that is stated without one


@dataclass(frozen=True)
class StatedTables:
    """Tables without data.

    Attributes:
        tables: rows and width by name, which may begin with the part and a dot; of these alone a plan is made.
        rows: by name of the schema's tables, in place of what the data have; where it names all of them, no data are
            read.
        optimizer: what the tables learn by, "rowwise_adagrad" as the commands do, "adagrad" or "sgd".
    """

    tables: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    optimizer: str = "rowwise_adagrad"


def plan(config: RunConfig, stated: StatedTables, progress: Progress) -> TablePlan:
    """Plan the configured ranker's tables, or those that are stated, for the configured cluster.

    Raises:
        UsageError: a stated table is not the schema's, both ways to state are mixed, or row-wise Adagrad meets
            column-wise sharding.
        DataError: data are needed, and they are missing or break the schema.
    """
    if stated.tables and stated.rows:
        raise UsageError(
            "Tables are stated in two ways: give whole tables, each with its rows and width, or rows of the schema's."
        )
    if stated.tables:
        tables, dense = _stated(config, stated), 0
    else:
        tables, dense = _of_ranker(config, stated, progress)
    cluster = cluster_of(config)
    return plan_tables(tables, cluster, batch_rows_of(config, cluster), dense)


def _stated(config: RunConfig, stated: StatedTables) -> list[TableToPlace]:
    rules = rules_of(config, cluster_of(config))
    tables = []
    for name, (rows, width) in stated.tables.items():
        part, _, own = name.rpartition(".")
        part = part or _TABLES_OF
        if part not in rules.types:
            raise UsageError(f"Table `{name}` is of no part that has tables; expected {', '.join(rules.types)}.")
        is_replicated = part in rules.replicated
        types = rules.types[part] if is_replicated else rules.table_types.get(own, rules.types[part])
        require_whole_rows(f"Table `{name}`", types, stated.optimizer)
        precision = "float32" if is_replicated else config.training.table_precision
        kernels = rules.table_kernels.get(own, rules.kernels[part])
        tables.append(
            TableToPlace(
                part,
                own,
                rows,
                width,
                types,
                kernels,
                precision,
                stated.optimizer,
                cache_share=rules.cache_share,
            )
        )
    require_known(rules, [table.name for table in tables])
    return tables


def _of_ranker(config: RunConfig, stated: StatedTables, progress: Progress) -> tuple[list[TableToPlace], int]:
    schema = load_schema(prepare.schema_file(config.data))
    names = list(dict.fromkeys(feature.table for feature in schema.sparse))
    if unknown := [name for name in stated.rows if name not in names]:
        raise UsageError(
            f"Rows are stated for `{unknown[0]}`, and the schema `{schema.name}` has no such table. It has "
            f"{', '.join(names)}."
        )
    rows = dict(stated.rows)
    if set(names) - set(rows):
        rows = dict(prepare.run(config, progress).contract.table_rows) | rows
    return _tables_and_rest(config, schema, rows, stated.optimizer)


def _tables_and_rest(
    config: RunConfig, schema: FeatureSchema, rows: Mapping[str, int], optimizer: str
) -> tuple[list[TableToPlace], int]:
    """Read the tables off a ranker of small ones, each with a number of rows that no other table has."""
    first = len(schema.segments) + 2
    number = {name: first + place for place, name in enumerate(rows)}
    contract = FeatureContract(schema, number, dict.fromkeys(rows, ""), {})
    mode = config.training_mode
    with torch.random.fork_rng(devices=[]):
        ranker = build_ranker(
            config.network,
            config.composition,
            build_spec(config.tower, schema),
            contract,
            config.training.seed,
            adapter_rank=mode.adapter_rank,
            is_ordinal=config.training.objective == ORDINAL,
            rungs=widest_rungs(config, contract),
        )
    dense, tables = build_rates(config.training, {}, [name for name, _ in ranker.named_children()])
    learning = optimizers_in(mode.stages_in_order()[-1][0], dense, tables)[1]
    rules = {part: optimizer if rule else None for part, rule in learning.items()}
    placed = tables_to_place(
        ranker, rules, config.training.table_precision, rules_of(config, cluster_of(config), schema)
    )
    of_number = {number[name]: count for name, count in rows.items()}
    return [replace(each, rows=of_number.get(each.rows, each.rows)) for each in placed], dense_bytes(ranker)
