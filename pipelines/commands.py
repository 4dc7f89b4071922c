"""The table of commands: what each command is for, its options, and which overrides it takes.

**An override that a command makes no use of is refused by name**, so that nobody takes an old number for a new one.
What a command takes is its `takes`: parts of the configuration (`training`) or single keys (`runtime.runs`).

- A command that makes a run, or a step of one, takes all of a run's configuration: who prepares with the overrides of
  the coming run can type the same ones again.
- A study and a scheduled run take their own part as well. What the study's grid and seeds, or the scheduled run's
  date, set anew for every run is refused as well.
- A command on a finished or stopped run has that run's configuration, and takes what may differ without making it
  another run; of the rest, what agrees with the run is let through.
- A command on the tracking store takes its address, and one that works on files what it reads of the configuration.
"""

from .command import Command, Option, Positional

WHOLE_RUN = (
    "data",
    "tower",
    "network",
    "composition",
    "training_mode",
    "training",
    "sharding",
    "cluster",
    "evaluation",
    "tracking",
    "runtime",
)
STORE = ("tracking.uri", "runtime.runs")
# Where things lie and how the machine is used; a stopped run's own folder and store are where they are.
RESUMED = (
    *("runtime.encoded", "runtime.towers", "runtime.device", "runtime.threads", "runtime.memory_limit"),
    *("sharding", "cluster", "runtime.exchange_seconds"),
)
# Other rows may be measured too, as long as they have the contract that the ranker was trained under.
MEASURED = ("data.raw", "data.schema_path", "evaluation", *RESUMED)

# The margin and the bootstrap of a paired difference.
COMPARED = ("ablation.margin", "ablation.resamples")

# The events may have grown since the run was trained.
RECOMMENDED = (*("data.raw", "runtime.encoded", "runtime.threads", "runtime.memory_limit", "runtime.exchange_seconds"),)

STUDY = "id of a study, or the beginning of one"
AS_JSON = Option("--json", "print JSON with the numbers in full, and no tables", is_switch=True)
OF_RUN = Option("--run", "folder of a finished run, as `recsys train` printed it", required=True, is_path=True)
COMMANDS = (
    Command(
        "demo", "simulate a world and answer the project's question on it", "recsys demo", (*WHOLE_RUN, "ablation")
    ),
    Command(
        "fetch",
        "download a public data set from its publisher, checked and resumable",
        "recsys fetch online_retail",
        (),
        (Option("--to", "target folder (data/raw/<source>)", is_path=True),),
        positionals=(
            Positional(
                "source",
                "online_retail, movielens-100k, movielens-1m, movielens-20m, movielens-25m or movielens-latest-small",
            ),
        ),
    ),
    Command(
        "inspect",
        "what Parquet files hold, what the loader would do with them, and how to write them better",
        "recsys inspect path/to/folder",
        ("training.batch_size", "training.shuffle_buffer_rows", "training.decode_threads"),
        (AS_JSON,),
        positionals=(Positional("path", "a Parquet file, or a folder with some anywhere below it", is_path=True),),
    ),
    Command(
        "init",
        "look at rows that nobody has declared yet, and write a commented schema file for them",
        "recsys init path/to/folder --output shop.yaml",
        ("runtime.threads", "runtime.memory_limit"),
        (
            Option("--output", "schema file to write (<name of the folder or file>.yaml)", default="", is_path=True),
            Option("--events", "the files that are the events: a name, folder or pattern (guessed)", default=""),
            Option("--user", "column of users (guessed, as all below)", default=""),
            Option("--item", "column of items", default=""),
            Option("--time", "column of times; none: there is none", default=""),
            Option("--label", "column of 0 and 1, or a rule such as 'stars > 3'; none: only positives", default=""),
            Option("--query", "column of baskets, sessions or lists; none: there is none", default=""),
        ),
        positionals=(
            Positional("path", "a Parquet or CSV file, or a folder with some anywhere below it", is_path=True),
        ),
    ),
    Command(
        "prepare",
        "raw rows -> encoded Parquet, everything fitted on the training split; reports what came out",
        "recsys prepare data=online_retail data.raw=path/to/folder",
        WHOLE_RUN,
        (AS_JSON,),
        why_alone="prepares rows in one process, on all cores of its machine",
    ),
    Command(
        "pretrain",
        "pre-train or import the embedding tower",
        "recsys pretrain data=online_retail",
        WHOLE_RUN,
        is_spread=True,
    ),
    Command(
        "audit",
        "does every segment's loss reach every part that it should, and no other? Before a run, in a second",
        "recsys audit data=online_retail composition=conditional training_mode=frozen_tower",
        WHOLE_RUN,
        (Option("--json", "file to write the report to", is_path=True),),
    ),
    Command(
        "plan",
        "where tables would lie on a cluster, what they take, what does not fit and what would make it fit",
        "recsys plan --tables item_id=2_000_000_000x128,user_id=1_000_000_000x64 cluster=gpus_8x80gb",
        WHOLE_RUN,
        (
            Option(
                "--tables",
                "tables of a model that is still to be made, name=ROWSxWIDTH with commas between them, with or without "
                "the part and a dot before the name; a plan of these alone",
                default="",
            ),
            Option(
                "--rows",
                "rows of the schema's tables, name=ROWS with commas between them, in place of what the data have; with "
                "all of them no data are needed",
                default="",
            ),
            Option(
                "--optimizer",
                "what tables learn by: rowwise_adagrad, as in `recsys train`, adagrad or sgd",
                default="rowwise_adagrad",
            ),
            AS_JSON,
        ),
    ),
    Command(
        "train",
        "one run: one composition, one training mode, one seed",
        "recsys train data=online_retail composition=conditional training_mode=frozen_tower",
        WHOLE_RUN,
        (
            Option(
                "--resume",
                "folder of a run that was stopped; goes on from its newest complete checkpoint",
                is_path=True,
            ),
            Option(
                "--from-study",
                "id of a study of training modes: every segment may change of the tower what its validation rows ask "
                "for, and the mixed model is judged on test rows; also training_mode=from_study study=ID",
            ),
        ),
        run_option="resume",
        may_differ=RESUMED,
        is_spread=True,
    ),
    Command(
        "evaluate",
        "measure a finished run on a split",
        "recsys evaluate --run runs/online_retail/20260101-120000-e2e --split test",
        MEASURED,
        (OF_RUN, Option("--split", "split to measure on", default="test")),
        run_option="run",
        may_differ=MEASURED,
        is_spread=True,
    ),
    Command(
        "towers",
        "may a run take a new tower without being trained again? Maps its vectors to the old one's and scores the run",
        "recsys towers compare data/towers/old data/towers/new --run runs/simulated/20260101-120000-frozen",
        (*MEASURED, *COMPARED),
        (OF_RUN, Option("--split", "split to score the run on", default="test"), AS_JSON),
        positionals=(
            Positional("what", "compare", choices=("compare",)),
            Positional("old", "folder of the tower that the run was trained on, or of a run that holds it", True),
            Positional("new", "folder of the tower that it may take, or of a run that holds it", True),
        ),
        run_option="run",
        may_differ=(*MEASURED, *COMPARED),
    ),
    Command(
        "ablate",
        "train every arm of a study and say which is better, for whom",
        "recsys ablate experiment=frozen_vs_finetuned data=online_retail data.raw=path/to/folder",
        (*WHOLE_RUN, "ablation"),
        plans=True,
        why_alone="starts the processes of its arms by itself, as many as `ablation.processes` and "
        "`ablation.processes_per_arm` say",
    ),
    Command(
        "compare",
        "a study's arms, differences with intervals, and verdict, from the tracking store",
        "recsys compare --study frozen_vs_finetuned",
        STORE,
        (
            Option("--study", f"{STUDY} (the newest)", default=""),
            Option("--metric", "what to show the differences in", default="auc"),
            AS_JSON,
        ),
    ),
    Command(
        "runs",
        "every recorded run with its status and its test scores, newest first",
        "recsys runs --study frozen_vs_finetuned",
        STORE,
        (Option("--study", f"{STUDY} (every run)", default=""), AS_JSON),
    ),
    Command(
        "score",
        "probabilities for rows in a Parquet file",
        "recsys score --run runs/simulated/20260101-120000-e2e --input rows.parquet --output scores.parquet",
        ("runtime.threads", "runtime.memory_limit", "runtime.encoded", "runtime.exchange_seconds"),
        (
            OF_RUN,
            Option(
                "--input",
                "Parquet file with the raw columns, as in the files that were prepared; user, item and time may do",
                required=True,
                is_path=True,
            ),
            Option(
                "--events",
                "folder of the events of which is counted what the rows lack (default: the run's `data.raw`)",
                default="",
                is_path=True,
            ),
            Option("--output", "Parquet file to write: the rows and their `probability`", required=True, is_path=True),
        ),
        is_spread=True,
    ),
    Command(
        "recommend",
        "the best candidates of every user on a date, as partitioned Parquet; a killed one goes on",
        "recsys recommend --run runs/online_retail/20260101-120000-e2e --date 2011-09-01 --output lists",
        RECOMMENDED,
        (
            OF_RUN,
            Option(
                "--output", "folder to write `date=.../model=.../part-*.parquet` below", required=True, is_path=True
            ),
            Option(
                "--date",
                "the first day whose events are not known, YYYY-MM-DD; none for events without times",
                default="",
            ),
            Option("--users", "all, a file with one id a line, or ids with commas between them", default="all"),
            Option("--top", "how many items a user gets", default="20"),
            Option(
                "--retrieve",
                "how many candidates the tower finds for the ranker to order; 0: the ranker orders all",
                default="500",
            ),
            Option("--new-only", "leave out what the user had before", is_switch=True),
        ),
        run_option="run",
        may_differ=RECOMMENDED,
        is_spread=True,
    ),
    Command(
        "daily",
        "prepare, check, pre-train, train, compare, promote for a day or several; safe to start twice",
        "recsys daily --date 2011-09-01 data=online_retail data.raw=path/to/folder",
        (*WHOLE_RUN, "daily", "ablation"),
        (
            Option("--date", "the first day that the run must not see, YYYY-MM-DD", default=""),
            Option("--from", "in place of --date: the first of several dates, done in order", default=""),
            Option("--to", "the last of them", default=""),
            Option("--stage", "the last stage to do: prepare, check, pretrain, train, evaluate", default="promote"),
            Option("--json", "print one line of JSON per decision, and nothing else", is_switch=True),
        ),
    ),
    Command(
        "status",
        "what became of each scheduled day: done, stale, running and where, stopped and why",
        "recsys status data=online_retail data.raw=path/to/folder",
        ("data", "daily", "runtime"),
        (Option("--days", "how many of the newest days", default="30"), AS_JSON),
    ),
    Command(
        "rollback",
        "make the champion before this one the champion again",
        'recsys rollback --reason "complaints about empty lists" data=online_retail',
        ("data", *STORE, "tracking.experiment"),
        (Option("--reason", "why; it is kept with the champions and in the registry", required=True),),
    ),
    Command("sync", "send what was spooled while the tracking server was away", "recsys sync tracking=server", STORE),
    Command(
        "ui",
        "serve MLflow on loopback over the recorded runs, and say where the newest study's chart page is",
        "recsys ui --open",
        STORE,
        (
            Option("--port", "port", default="5000"),
            Option("--study", f"{STUDY} (the newest)", default=""),
            Option("--open", "open the study's chart page in the browser", is_switch=True),
        ),
    ),
)
