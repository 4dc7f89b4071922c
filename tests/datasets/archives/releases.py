"""Small MovieLens releases in each of the publisher's layouts."""

from pathlib import Path

from recsys.datasets.archives import unpack
from recsys.datasets.source import Source
from recsys.datasets.table import TableSource
from recsys.datasets.table_layout import load_table_layout
from recsys.features.schema import load_schema
from recsys.progress import silent

SCHEMAS = Path(__file__).parents[3] / "data" / "schemas"

# Ten ratings, one a second: the first eight are train, the ninth validation, the tenth test.
RATINGS = [
    (1, 7, 5, 100),
    (1, 8, 3, 101),
    (2, 7, 4, 102),
    (2, 8, 2, 103),
    (3, 7, 1, 104),
    (3, 8, 5, 105),
    (1, 9, 4, 106),
    (2, 9, 4, 107),
    (3, 9, 3, 108),
    (1, 7, 4, 109),
]


def flags(*places: int) -> str:
    return "|".join("1" if place in places else "0" for place in range(19))


def write_100k(folder: Path, ratings: list[tuple[int, int, int, int]] | None = None) -> Path:
    folder.mkdir()
    # The publisher's file is in no order; the source must find time order itself.
    lines = ["\t".join(map(str, row)) for row in reversed(ratings or RATINGS)]
    (folder / "u.data").write_text("\n".join(lines) + "\n")
    (folder / "u.user").write_text("1|24|M|technician|85711\n2|25|F|other|T8H1N\n3|35|M|writer|32067\n")
    movies = [
        f"7|Amélie (2001)|01-Jan-2001||http://x|{flags(5, 14)}",
        f"8|Toy Story (1995)|01-Jan-1995||http://x|{flags(3)}",
        f"9|unknown||||{flags(0)}",
    ]
    (folder / "u.item").write_bytes(("\n".join(movies) + "\n").encode("latin-1"))
    return folder


def write_1m(folder: Path) -> Path:
    folder.mkdir()
    (folder / "ratings.dat").write_text("".join("::".join(map(str, row)) + "\n" for row in RATINGS))
    (folder / "users.dat").write_text("1::M::18::4::85711\n2::F::25::0::55117\n3::M::56::16::32067\n")
    movies = "7::Amélie (2001)::Comedy|Romance\n8::Toy Story (1995)::Animation\n9::Heat (1995)::Crime\n"
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    return folder


def write_csv(folder: Path, ratings: list[tuple[int, int, int, int]] | None = None) -> Path:
    folder.mkdir()
    rows = "".join(f"{user},{item},{rating}.5,{time}\n" for user, item, rating, time in ratings or RATINGS)
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    movies = '7,"Amélie, or Fate (2001)",Comedy|Romance\n8,Toy Story (1995),Animation\n9,Untitled,(no genres listed)\n'
    (folder / "movies.csv").write_text("movieId,title,genres\n" + movies, encoding="utf-8")
    return folder


def release_source(raw: Path, schema_name: str = "movielens") -> Source:
    """The release as the schema file that ships with the project declares it, unpacked beside `raw`."""
    target = raw.parent / f"{raw.name}_tables"
    target.mkdir(parents=True, exist_ok=True)
    unpack("movielens", raw, target, silent)
    path = SCHEMAS / f"{schema_name}.yaml"
    return TableSource(target, load_table_layout(path, load_schema(path)))
