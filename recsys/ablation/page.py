"""A study's report as blocks, rendered as one self-contained HTML page and as Markdown: the same words in both."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


@dataclass(frozen=True)
class ReportTable:
    """A heading, column names, and rows of as many texts."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_markdown(self) -> str:
        """A Markdown table; its first column is aligned left, the others right.

        >>> print(ReportTable("Arms", ("arm", "AUC"), (("frozen", "0.71"),)).to_markdown())
        | arm | AUC |
        |:---|---:|
        | frozen | 0.71 |
        """
        rule = "|:---|" + "---:|" * (len(self.header) - 1)
        lines = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (self.header, *self.rows)
        ]
        return "\n".join([lines[0], rule, *lines[1:]])


@dataclass(frozen=True)
class Picture:
    """A figure, the file that Markdown finds it under (as "plots/forest.png"), and what it shows."""

    file: str
    caption: str
    figure: Figure

    def to_data_uri(self) -> str:
        """The figure as an SVG that needs no other file."""
        drawn = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": "recsys"}):
            self.figure.savefig(drawn, format="svg", bbox_inches="tight", metadata={"Date": None})
        return "data:image/svg+xml;base64," + base64.b64encode(drawn.getvalue().encode()).decode()


@dataclass(frozen=True)
class Code:
    """Commands to type, or other text that keeps its lines."""

    text: str


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    sentences: tuple[str, ...]


Block = str | ReportTable | Picture | Code | Points
"""A plain text is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; folded ones are closed on the HTML page until they are clicked."""

    title: str
    blocks: tuple[Block, ...]
    is_folded: bool = False


@dataclass(frozen=True)
class Finding:
    """One question's answer as the head of the page shows it: "frozen, parallel", "equivalent", "-0.0000 ..."."""

    question: str
    verdict: str
    detail: str
    colour: str


@dataclass(frozen=True)
class Report:
    """The verdict first, then the sections that bear it out.

    Attributes:
        verdict: what to do, then the evidence for it, point by point.
    """

    title: str
    verdict: tuple[str, ...]
    findings: tuple[Finding, ...]
    sections: tuple[Section, ...]

    @property
    def pictures(self) -> list[Picture]:
        """Every picture, in the order of the page."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Picture)]

    def to_markdown(self) -> str:
        """Markdown in which pictures are links to their files."""
        findings = [f"{f.question}: **{f.verdict}** ({f.detail})" for f in self.findings]
        parts = [f"# {self.title}", f"**{self.verdict[0]}**", _markdown(Points((*findings, *self.verdict[1:])))]
        for section in self.sections:
            parts += [f"## {section.title}", *map(_markdown, section.blocks)]
        return "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """One page that loads nothing: styles and pictures are inside."""
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
        return template.render(report=self, kind=_kind, paragraph=_paragraph)


def _markdown(block: Block) -> str:
    match block:
        case ReportTable():
            return f"### {block.title}\n\n{block.to_markdown()}"
        case Picture():
            return f"![{block.caption}]({block.file})"
        case Code():
            return f"```\n{block.text}\n```"
        case Points():
            return "\n".join(f"- {sentence}" for sentence in block.sentences)
    return block


def _kind(block: Block) -> str:
    return type(block).__name__


def _paragraph(text: str) -> Markup:
    """Escape a text in which *words* are emphasised and `code` is code."""
    found = Markup("")
    for place, piece in enumerate(text.split("`")):
        if place % 2:
            found += Markup("<code>{}</code>").format(piece)
        else:
            found += _emphasised(piece.split("*"))
    return found


def _emphasised(pieces: Sequence[str]) -> Markup:
    found = Markup("")
    for place, piece in enumerate(pieces):
        found += Markup("<em>{}</em>").format(piece) if place % 2 else Markup("{}").format(piece)
    return found
