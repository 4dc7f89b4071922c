"""What a command of the command line is: a word, its options, and which overrides it takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Option:
    """One option of a command, apart from the overrides."""

    flag: str
    help: str
    required: bool = False
    default: str | None = None
    is_switch: bool = False
    is_path: bool = False


@dataclass(frozen=True)
class Positional:
    """An argument of a command that is told by its place.

    Attributes:
        choices: the words that it may be; () for any.
    """

    name: str
    help: str
    is_path: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """One word of the command line; its module in `pipelines` has `main(config, arguments)`.

    Attributes:
        takes: the parts of the configuration, or single keys, whose overrides have an effect.
        run_option: the option that names a run whose own configuration the command works with.
        may_differ: like `takes`, with that option given.
        plans: whether the module has `plan(config, arguments)`, which says what would be done.
        is_spread: whether the processes that torchrun starts share its work.
        why_alone: why not, for the message.
    """

    name: str
    summary: str
    example: str
    takes: tuple[str, ...]
    options: tuple[Option, ...] = ()
    positionals: tuple[Positional, ...] = ()
    run_option: str = ""
    may_differ: tuple[str, ...] = ()
    plans: bool = False
    is_spread: bool = False
    why_alone: str = "does all its work in one process, and the others would only do it again"

    @property
    def module(self) -> str:
        """The module under `pipelines` that holds it."""
        return f"{__package__}.{self.name}"
