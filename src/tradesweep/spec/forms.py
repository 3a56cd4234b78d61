"""What a field of the spec accepts, in words, read from its annotation; so rule and message cannot part."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", NoneType: "null"}
MANY = {int: "whole numbers", float: "numbers", str: "words"}


class Form(str):
    """Words for an annotation that says too little by itself, as in `Annotated[str, Form("a name")]`."""

    __slots__ = ()


def form_of(annotation: Any, limits: tuple[Any, ...] = ()) -> str:
    """`a whole number >= 1 or auto`, from the annotation of a field and its limits."""
    for limit in limits:
        if isinstance(limit, Form):
            return str(limit)
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return form_of(inner, (*limits, *_flat(metadata)))
    if is_union(annotation):
        return " or ".join(form_of(member) for member in get_args(annotation))
    return " ".join([_plain_form(annotation), *_limits_in_words(limits)]).strip()


def step_into(annotation: Any, word: str | int) -> Any:
    """The annotation one word deeper, or None where there is nothing below."""
    if get_origin(annotation) is Annotated:
        return step_into(get_args(annotation)[0], word)
    if is_union(annotation):
        below = [member for member in get_args(annotation) if _is_model(member)]
        return step_into(below[0], word) if below else None
    if _is_model(annotation):
        field = annotation.model_fields.get(word)
        return Annotated[field.annotation, *field.metadata] if field and field.metadata else field and field.annotation
    if get_origin(annotation) is tuple and isinstance(word, int):
        return get_args(annotation)[0]
    return get_args(annotation)[1] if get_origin(annotation) is dict else None


def fields_of(annotation: Any) -> list[str]:
    """Names a mapping of this annotation may hold; empty when any."""
    members = get_args(annotation) if is_union(annotation) else (annotation,)
    return [name for member in members if _is_model(member) for name in member.model_fields]


def is_union(annotation: Any) -> bool:
    """Whether several forms are accepted."""
    return get_origin(annotation) in (Union, UnionType)


def bare(annotation: Any) -> Any:
    """The annotation without its limits."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _plain_form(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return _either([str(option) for option in get_args(annotation)])
    if origin is tuple:
        return f"a list of {MANY.get(bare(get_args(annotation)[0]), 'values')}"
    if origin is dict or annotation is dict or _is_model(annotation):
        return "a mapping"
    return WORDS.get(annotation, "a value")


def _either(options: list[str]) -> str:
    return f"one of {', '.join(options)}" if len(options) > 2 else " or ".join(options)


def _flat(metadata: list[Any]) -> list[Any]:
    return [item for entry in metadata for item in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]


def _limits_in_words(limits: tuple[Any, ...]) -> list[str]:
    words = []
    for limit in limits:
        match limit:
            case annotated_types.Ge():
                words.append(f">= {limit.ge:,}")
            case annotated_types.Gt():
                words.append(f"> {limit.gt:,}")
            case annotated_types.Le():
                words.append(f"<= {limit.le:,}")
            case annotated_types.Lt():
                words.append(f"< {limit.lt:,}")
            case annotated_types.MinLen():
                words.append(f"with at least {limit.min_length}")
    return [" and ".join(words)] if words else []
