"""Encoded rows come back as raw rows that any model of the same schema encodes to the very same rows."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.datasets.decode import raw_rows
from recsys.datasets.encoded import open_encoded
from recsys.features.account import Account
from recsys.features.encoding import encode_feature
from recsys.features.vocabulary import UNKNOWN_ROW
from tests.worlds import write_encoded_world


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded") / "world"
    write_encoded_world(folder, rows_per_day=20)
    return open_encoded(folder)


def test_decoded_rows_encode_to_what_they_were_with_ids_never_seen_where_they_stood(encoded):
    rows = pq.read_table(encoded.files("test")[0], partitioning=None)
    decoded = pa.concat_tables(raw_rows(encoded, "test"))
    vocabularies = {table: encoded.vocabulary(table) for table in encoded.contract.table_rows}
    unknown_in_lists = 0
    for feature in encoded.contract.schema.sparse:
        account = Account("", {}, len(rows))
        again = encode_feature(
            decoded[feature.name].combine_chunks(), feature, encoded.contract, vocabularies, account
        ).to_pylist()
        assert again == rows[feature.name].to_pylist(), feature.name
        if pa.types.is_list(rows[feature.name].type):
            unknown_in_lists += sum(ids.count(UNKNOWN_ROW) for ids in again)
    assert unknown_in_lists
