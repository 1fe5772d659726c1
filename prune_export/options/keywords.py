"""Public functions of options: called with keywords, which become one checked object."""

import re
import textwrap
from collections.abc import Callable
from functools import cache, wraps
from inspect import Parameter, Signature, cleandoc, signature
from typing import Any, Concatenate, ParamSpec, TypeVar, get_type_hints

from prune_export.options.checking import conforming
from prune_export.options.option import Option, OptionField, Options, fields_of

P = ParamSpec("P")
Group = TypeVar("Group", bound=Options)
R = TypeVar("R")
S = TypeVar("S")


def from_keywords(kind: Callable[P, Group], **names: Any) -> Callable[[Callable[[Group], R]], Callable[P, R]]:
    """Lets a function of an object of the dataclass `kind` take the fields of `kind` as its arguments.

    The arguments are checked. `names` are what the annotations of `kind` name and its module imports for type checkers only.

    Raises:
        UsageError: an argument is of another type, or out of range; the message says which, and what was expected.
    """

    return lambda function: _wrapped(function, kind, names)


def method_from_keywords(
    kind: Callable[P, Group], **names: Any
) -> Callable[[Callable[[S, Group], R]], Callable[Concatenate[S, P], R]]:
    """`from_keywords` for methods."""
    return lambda method: _wrapped(method, kind, names, Parameter("self", Parameter.POSITIONAL_OR_KEYWORD))


def _wrapped(function: Callable[..., R], kind: Any, names: dict[str, Any], *own: Parameter) -> Callable[..., R]:
    """The function that makes the object; `own` is the parameter that comes before, of a method."""
    where = function.__qualname__.removesuffix(".__init__")

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> R:
        return function(*args[: len(own)], _checked(kind, names, where, args[len(own) :], kwargs))

    _document(wrapper, kind, own)
    return wrapper


@cache
def _hints(kind: Any, names: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return get_type_hints(kind, localns=dict(names))


def _checked(kind: Any, names: dict[str, Any], where: str, args: Any, kwargs: Any) -> Any:
    given = signature(kind).bind(*args, **kwargs).arguments
    hints = _hints(kind, tuple(names.items()))
    for field in fields_of(kind):
        if field.name in given:
            field.check_word(given[field.name], where)
            given[field.name] = conforming(given[field.name], hints[field.name], f"{where}: {field.name}")
            field.check_numbers(given[field.name], where)
    return kind(**given)


def _document(wrapper: Any, kind: Any, before: tuple[Parameter, ...]) -> None:
    """Gives the function the signature of the dataclass, and its docstring the help of the fields."""
    annotations = {field.name: field.annotation for field in fields_of(kind)}
    parameters = [
        parameter.replace(annotation=annotations[name]) for name, parameter in signature(kind).parameters.items()
    ]
    returns = wrapper.__annotations__.get("return", Parameter.empty)
    wrapper.__signature__ = Signature([*before, *parameters], return_annotation=returns)
    wrapper.__annotations__ = {**annotations, "return": returns}
    text, mark, rest = _split(cleandoc(wrapper.__doc__ or ""))
    wrapper.__doc__ = f"{text}\n\nArgs:\n{_help(kind)}\n{mark}{rest}".rstrip() + "\n"


def _split(doc: str) -> tuple[str, str, str]:
    """The docstring before and after the place of its arguments."""
    found = re.search(r"\n\n(Returns|Raises):\n", doc)
    return (doc, "", "") if found is None else (doc[: found.start()], "\n", doc[found.start() + 2 :])


def _help(kind: Any) -> str:
    names = {field.flag: f"`{field.name}`" for field in fields_of(kind)}
    lines = []
    for field in fields_of(kind):
        text = re.sub(r"--[a-z-]+", lambda flag: names.get(flag[0], flag[0]), f"{field.name}: {_facts(field)}.")
        lines += textwrap.wrap(text, 110, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
    return "\n".join(lines)


def _facts(field: OptionField) -> str:
    """What the help says, the choices and the range; the signature has the default."""
    option = field.option
    switch_off = field.default is True and isinstance(option, Option) and not option.is_two_way
    facts = [f"False: {option.help}" if switch_off else option.help] if option.help else []
    if option.choices:
        facts.append(f"one of {', '.join(option.choices)}")
    if option.allowed is not None:
        facts.append(str(option.allowed))
    if option.default is not None and field.default is None:
        facts.append(f"by default {option.default}")
    return "; ".join(facts)
