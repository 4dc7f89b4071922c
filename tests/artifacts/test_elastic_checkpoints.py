"""What N processes saved, M go on with: to the bit where N is M, else as an unbroken run; each reads what it holds."""

import json
import os
import shutil
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
from torchrec.modules.embedding_configs import PoolingType

from recsys.artifacts.checkpoint import newest_checkpoint, save_checkpoint
from recsys.artifacts.checkpoint_writer import CheckpointWriter
from recsys.errors import CannotWriteError, DataError
from recsys.files import fingerprint_of
from recsys.sharding.divided_state import divided_accumulators, divided_state, undivided
from recsys.sharding.whole_state import whole
from recsys.sharding.wrap import TableOptimizer, wrap_ranker
from recsys.training.snapshot import state_dict
from recsys.training.weight_average import WeightAverage
from tests.sharding.small_rows import open_small_rows
from tests.sharding.tables import BAGS, TwoParts, keyed_ids, loss_of
from tests.sharding.two_processes import run_in_several
from tests.small_model import ROWS, batch_of, small_contract
from tests.training.saved_runs import differing, everything, resume_run, save_run
from tests.training.small_run import Batches, small_run

CONTRACT = small_contract()
PARTS = ("embedding_tower", "interaction_network")
# How the tables are cut, and by which rule they learn.
KINDS = {
    "table_wise": "adagrad",
    "row_wise": "adagrad",
    "column_wise": "adagrad",
    "data_parallel": "adagrad",
    "rows": "rowwise_adagrad",
}
ITEMS = "embedding_tower.ebc.embedding_bags.item_rows.weight"
CUTS_OF_FOUR = ("table_wise", "row_wise", "rows")
STEPS = [[ROWS[:3], ROWS[3:]], [ROWS[:2], ROWS[2:4]]]
BREAK_AT, LAST = 3, 5


def cut(context, kind, seed=0, *, has_learnt=True):
    """Tables that are cut one way, and have learnt something of their own."""
    rules = dict.fromkeys(PARTS, TableOptimizer(KINDS[kind], 0.1))
    cuts = dict.fromkeys(PARTS, "row_wise" if kind == "rows" else kind)
    wrapped = wrap_ranker(TwoParts(PoolingType.MEAN, seed=seed), rules, context, cuts)
    if has_learnt and kind != "data_parallel":  # whose tables learn through a gate alone
        loss_of(wrapped, keyed_ids(BAGS[seed])).backward()
    return wrapped


def parts_of(wrapped):
    return {**divided_state(wrapped), **divided_accumulators(wrapped)}


def save_cuts(context, folder):
    """Every kind of cut, saved; of each the whole tensors, as they were."""
    found = {}
    for kind in KINDS:
        parts = parts_of(cut(context, kind))
        found[kind] = whole(parts)
        save_checkpoint(folder / kind, 1, parts, {}, {}, CONTRACT, keep_last=1)
    return found


def wrongly_read(context, folder, expected):
    """What of every saved cut does not come back to the bit in every cut of tables that had learnt something else."""
    wrong = []
    for saved in KINDS:
        checkpoint = newest_checkpoint(folder / saved, CONTRACT, pytest.fail)
        for kind in KINDS:
            if KINDS[kind] == KINDS[saved]:
                wrapped = cut(context, kind, seed=1)
                with wrapped.inventory.writing():
                    checkpoint.read(parts_of(wrapped))
                wrong += [f"{saved} into {kind}: {n}" for n in differing(whole(parts_of(wrapped)), expected[saved])]
    return wrong


def new_run(context):
    """A run on rows of its own: of a step's rows a process has its share, in order; one process has them all."""
    run = small_run(context)
    run.average = WeightAverage(run.ranker, run.optimizers, 0.9)
    shares = [halves if context.world_size == 2 else (halves[0] + halves[1],) for halves in STEPS]
    run.stream = Batches([batch_of(share[context.rank]) for share in shares])
    run.log_losses = [0.6, 0.5, 0.7, 0.8]
    return run


def train(run, steps):
    run.train(steps, validate_every=2, patience=100)
    return run


def resumed(context, folder):
    run = new_run(context)
    resume_run(run, folder)
    run.log_losses = run.log_losses[1:]
    return train(run, LAST)


def named_lists(tensors):
    return {name: tensor.flatten().tolist() for name, tensor in tensors.items()}


def ages_read(context, root, saved, steps):
    """Go on with the rows from a checkpoint, if any, for so many steps, and keep one; return what was read."""
    stream = open_small_rows(root / "rows", context.device, context.rank, context.world_size)
    if saved:
        stream.load_state_dict(newest_checkpoint(root / saved, CONTRACT, pytest.fail).process["stream"])
    ages = [age for batch in islice(stream, steps) for age in batch.dense[:, 0].tolist()]
    place, position = root / f"rows-by-{context.world_size}", {"stream": stream.state_dict()}
    stream.close()
    save_checkpoint(place, 1, undivided({"step": torch.ones(())}), {}, position, CONTRACT, keep_last=1)
    return ages


def in_two(context, root):
    root = Path(root)
    expected = save_cuts(context, root / "two")
    run = train(new_run(context), BREAK_AT)
    writer = CheckpointWriter(root / "two" / "run", CONTRACT, 1, context)
    with writer:
        loop = run.state.to_document()
        parts = run.ranker, run.optimizers, run.stream, run.best, loop, run.average
        writer.save(BREAK_AT, partial(state_dict, *parts), {"stages": None})
        train(run, LAST)  # the steps go on meanwhile
    return {
        "ages": ages_read(context, root, "rows-by-1", 1),
        "from_one": wrongly_read(context, root / "one", torch.load(root / "one" / "whole.pt")),
        "from_two": wrongly_read(context, root / "two", expected),
        "resumed": differing(everything(resumed(context, root / "two" / "run")), everything(run)),
        "from_one_run": named_lists(everything(resumed(context, root / "one" / "run"))),
        "whole": named_lists({f"{k} {n}": t for k, tensors in expected.items() for n, t in tensors.items()}),
    }


def in_four(context, root):
    for kind in CUTS_OF_FOUR:
        saved = newest_checkpoint(Path(root) / "two" / kind, CONTRACT, pytest.fail)
        # Of a table of three rows one process has none, where fbgemm's kernels can read and not learn.
        wrapped = cut(context, kind, seed=1, has_learnt=False)
        with wrapped.inventory.writing():
            saved.read(parts_of(wrapped))
        save_checkpoint(Path(root) / "four" / kind, 1, parts_of(wrapped), {}, {}, CONTRACT, keep_last=1)
    return ages_read(context, Path(root), "rows-by-2", None)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("elastic")


@pytest.fixture(scope="module")
def alone(context, root):
    """An unbroken run of one process, which kept a checkpoint on the way."""
    expected = save_cuts(context, root / "one")
    torch.save(expected, root / "one" / "whole.pt")
    torch.save(ages_read(context, root, None, 1), root / "ages.pt")
    run = train(new_run(context), BREAK_AT)
    save_run(run, root / "one" / "run")
    return train(run, LAST)


@pytest.fixture(scope="module")
def two(alone, root):
    (root / "by-two").mkdir()
    first, second = run_in_several(2, in_two, root / "by-two", str(root))
    assert first["whole"] == second["whole"]
    return first | {"ages": first["ages"] + second["ages"]}


@pytest.fixture(scope="module")
def four(two, root):
    (root / "by-four").mkdir()
    return run_in_several(4, in_four, root / "by-four", str(root))


def saved_by_two(two, kind, context):
    shapes = {name: each.shape for name, each in parts_of(cut(context, kind)).items()}
    return {name: torch.tensor(two["whole"][f"{kind} {name}"]).view(shape) for name, shape in shapes.items()}


def test_what_one_process_saved_two_read_to_the_bit_however_their_tables_are_cut(two):
    assert two["from_one"] == []


def test_what_two_processes_saved_two_read_to_the_bit_however_their_tables_are_cut(two):
    assert two["from_two"] == []


def test_what_two_processes_saved_one_reads_to_the_bit(context, two, root):
    expected = {kind: saved_by_two(two, kind, context) for kind in KINDS}
    assert wrongly_read(context, root / "two", expected) == []


def test_what_two_processes_saved_four_read_and_what_four_saved_one_reads(context, two, four, root):
    for kind in CUTS_OF_FOUR:
        wrapped, saved = cut(context, kind, seed=1), newest_checkpoint(root / "four" / kind, CONTRACT, pytest.fail)
        with wrapped.inventory.writing():
            saved.read(parts_of(wrapped))
        assert differing(whole(parts_of(wrapped)), saved_by_two(two, kind, context)) == []


def test_a_run_resumed_in_as_many_processes_ends_with_the_bits_of_the_one_that_went_on(two):
    assert two["resumed"] == []


def test_a_run_of_one_process_goes_on_in_two_and_a_run_of_two_in_one_as_if_unbroken(context, alone, two, root):
    expected, back = everything(alone), resumed(context, root / "two" / "run")
    assert back.state.step == LAST
    assert back.state.best_step == alone.state.best_step
    for name, tensor in everything(back).items():
        assert torch.allclose(tensor, expected[name], atol=1e-4), name
        assert torch.allclose(torch.tensor(two["from_one_run"][name]), expected[name].flatten(), atol=1e-4), name


def test_every_row_of_an_epoch_is_read_once_whoever_goes_on(context, two, four, root):
    before = torch.load(root / "ages.pt") + two["ages"]
    by_four, by_one = [age for ages in four for age in ages], ages_read(context, root, "rows-by-2", None)
    assert (len(before), len(by_four)) == (5 + 2 * 5, 9)
    expected = sorted(torch.tensor([row.age for row in ROWS] * 4).tolist())
    assert sorted(before + by_four) == sorted(before + by_one) == expected


def test_each_process_writes_its_own_rows_and_no_tensor_is_written_twice(two, root):
    manifest = json.loads((root / "two" / "row_wise" / "step-00000001" / "manifest.json").read_text())
    for name, described in manifest["tensors"].items():
        elements = sum(torch.Size(sizes).numel() for _, sizes, _ in described["pieces"])
        assert elements == torch.Size(described["shape"]).numel(), name
    files = [file for _, _, file in manifest["tensors"][ITEMS]["pieces"]]
    assert sorted(files) == ["rank-0.safetensors", "rank-1.safetensors"]


@pytest.mark.parametrize("name", ["rank-0.safetensors", "rank-1.safetensors", "rank-1.json"])
def test_a_file_of_any_process_that_is_torn_is_named(context, two, root, tmp_path, name):
    shutil.copytree(root / "two" / "row_wise", tmp_path / "run")
    file = tmp_path / "run" / "step-00000001" / name
    file.write_bytes(file.read_bytes()[:-1])
    notices = []

    with pytest.raises(DataError, match="None of the 1 checkpoints"):
        newest_checkpoint(tmp_path / "run", CONTRACT, notices.append)

    assert notices == [f"checkpoint step 1 incomplete (sha256 mismatch in {name}), and there is none before it"]


def test_a_checkpoint_without_all_rows_of_a_table_is_refused(context, two, root, tmp_path):
    shutil.copytree(root / "two" / "row_wise", tmp_path / "run")
    manifest = tmp_path / "run" / "step-00000001" / "manifest.json"
    document = json.loads(manifest.read_text())
    del document["fingerprint"], document["tensors"][ITEMS]["pieces"][1]
    manifest.write_text(json.dumps(document | {"fingerprint": fingerprint_of(document)}))

    with pytest.raises(DataError, match=rf"holds 24 of the 40 numbers of `{ITEMS}`"):
        newest_checkpoint(tmp_path / "run", CONTRACT, pytest.fail).read(parts_of(cut(context, "row_wise")))


def one_cannot_write(context, folder):
    def full(path):
        raise OSError(28, "No space left on device")

    patched = pytest.MonkeyPatch()
    if context.rank == 1:
        patched.setattr("recsys.artifacts.checkpoint_storage.flush_file", full)
    with pytest.raises(CannotWriteError, match=r"Cannot write .*step-00000001.*: No space left on device"):
        save_checkpoint(Path(folder), 1, parts_of(cut(context, "row_wise")), {}, {}, CONTRACT, keep_last=1)
    patched.undo()
    return [path.name for path in Path(folder).iterdir()]


def test_where_one_process_cannot_write_all_say_so_and_nothing_is_left(tmp_path):
    (tmp_path / "by-two").mkdir()
    assert run_in_several(2, one_cannot_write, tmp_path / "by-two", str(tmp_path / "run"))[0] == []


def one_dies(context, folder):
    if context.rank == 1:
        pytest.MonkeyPatch().setattr("recsys.artifacts.checkpoint_storage.flush_file", lambda path: os._exit(9))
    save_checkpoint(Path(folder), 2, parts_of(cut(context, "row_wise")), {}, {}, CONTRACT, keep_last=1)


def test_where_one_process_dies_while_it_writes_the_checkpoint_before_is_gone_on_with(context, two, root, tmp_path):
    shutil.copytree(root / "two" / "row_wise", tmp_path / "run")
    (tmp_path / "by-two").mkdir()
    with pytest.raises(Exception, match="terminated with"):
        run_in_several(2, one_dies, tmp_path / "by-two", str(tmp_path / "run"))

    assert newest_checkpoint(tmp_path / "run", CONTRACT, pytest.fail).step == 1
    assert [path.name for path in (tmp_path / "run").glob("step-*")] == ["step-00000001"]
