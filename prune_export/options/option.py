"""What an option is beside its type and default: help, range and choices, and how the command line writes it."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from inspect import get_annotations
from typing import Annotated, Any, ClassVar, ForwardRef, Literal, dataclass_transform, get_args, get_origin

from exporters.errors import UsageError
from prune_export.options.ranges import Range, refusal, word


@dataclass(frozen=True, slots=True)
class Option:
    """What a field's annotation says of an option: `Annotated[int | None, Option("examples to use", "N", COUNT)]`.

    `default` says what stands for a default that does not tell by itself (None). `flag`, `group`, `nargs` and `action` are
    argparse's: the flag (by default the field's name), the title of the group (by default the `TITLE` of the class), and how
    words are collected. Values are checked by `allowed` and `choices`, each one where there are several.
    """

    help: str = ""
    metavar: str | None = None
    allowed: Range | None = None
    choices: tuple[str, ...] = ()
    default: str | None = None
    flag: str | None = None
    group: str | None = None
    nargs: Literal["+"] | None = None
    action: Literal["extend", "append"] | None = None
    is_path: bool = False  # the command line makes a Path of it, and puts the home in place of ~
    is_positional: bool = False  # the command line takes it without a flag
    is_required: bool = True  # by the command line, where the field has no default
    is_two_way: bool = False  # --x and --no-x; otherwise the one that differs from the default
    is_open: bool = False  # `choices` are the command line's alone; a call's are checked where they are known
    excludes: str | None = None  # another option that cannot be given with it


@dataclass(frozen=True, slots=True)
class ApiOnly:
    """What a field's annotation says of an option that the command line does not have, and why."""

    help: str
    reason: str
    allowed: Range | None = None
    choices: tuple[str, ...] = ()
    default: str | None = None


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class Options:
    """A group of options, under a `title` in `--help`: a frozen dataclass.

    Its fields are keyword-only, unless they are `field(kw_only=False)`.
    """

    TITLE: ClassVar[str | None]

    def __init_subclass__(cls, *, title: str | None = None) -> None:
        cls.TITLE = title
        dataclass(frozen=True, kw_only=True)(cls)


@dataclass(frozen=True, slots=True)
class OptionField:
    """A field of a group of options. `default` is `dataclasses.MISSING` where there is none; `group` is a title or None."""

    name: str
    option: Option | ApiOnly
    annotation: Any
    default: Any
    group: str | None

    @property
    def flag(self) -> str:
        """What the command line calls it."""
        given = self.option.flag if isinstance(self.option, Option) else None
        return given or "--" + self.name.replace("_", "-")

    @property
    def help(self) -> str:
        """The help with the default."""
        default = self.option.default
        values = self.default if isinstance(self.default, tuple) else (self.default,)
        if default is None and all(
            isinstance(value, str | int | float) and type(value) is not bool for value in values
        ):
            default = " ".join(f"{value:g}" if isinstance(value, float) else f"{value}" for value in values)
        if not default:
            return self.option.help
        return f"{self.option.help} (default: {default})" if self.option.help else f"default: {default}"

    def check_word(self, value: Any, where: str) -> None:
        """Checks that a word is one of the choices.

        Raises:
            UsageError: it is not.
        """
        is_open = isinstance(self.option, Option) and self.option.is_open
        if self.option.choices and not is_open and isinstance(value, str) and value not in self.option.choices:
            raise self._refusal(value, f"one of {', '.join(self.option.choices)}", where)

    def check_numbers(self, value: Any, where: str) -> None:
        """Checks that a number, or each of a tuple, is in the range.

        Raises:
            UsageError: one is not.
        """
        allowed = self.option.allowed
        for part in value if isinstance(value, tuple) else (value,):
            if allowed is not None and part is not None and not allowed.holds(part):
                raise self._refusal(part, str(allowed), where)

    def _refusal(self, value: Any, expected: str, where: str) -> UsageError:
        if isinstance(self.option, Option):
            return refusal(self.flag, value, expected)
        return UsageError(f"{where}: {self.name}: expected {expected}; found {word(value)}")


def fields_of(kind: Any) -> Iterator[OptionField]:
    """The options of a dataclass, in the order of the parameters that they are."""
    declared = {name: part for part in reversed(kind.__mro__) for name in get_annotations(part)}
    for part in sorted(fields(kind), key=lambda part: bool(part.kw_only)):
        owner, name = declared[part.name], f"{kind.__name__}.{part.name}"
        if get_origin(part.type) is not Annotated:
            raise TypeError(f"{name}: expected Annotated[type, Option(…)], and no future annotations")
        # Dataclasses take all fields of each base, inherited ones, too: one that another base redeclares would come back.
        if part.type != get_annotations(owner)[part.name]:
            raise TypeError(f"{name}: a base beside {owner.__name__} has it, too; redeclare it in {kind.__name__}")
        hint, option, *_ = get_args(part.type)
        annotation = hint.__forward_arg__ if isinstance(hint, ForwardRef) else hint
        group = getattr(option, "group", None) or owner.TITLE
        yield OptionField(part.name, option, annotation, part.default, group)
