"""Mappings from files into frozen dataclasses, strictly."""

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from synergic.errors import SynergicError

T = TypeVar("T")

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
"""Numbers of a file, with the ranges that `read_config` holds them to."""


def read_config(cls: type[T], mapping: Mapping[str, Any], source: object) -> T:
    """The mapping as a `cls`. An unknown key or a wrong value raises SynergicError, naming `source` and the key."""
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for key in mapping:
        if key not in known:
            nearest = get_close_matches(key, known, n=1, cutoff=0)[0]
            raise SynergicError(f"{source}: expected a known key, got {key!r}; did you mean {nearest!r}?")
    try:
        return TypeAdapter(cls).validate_python(dict(mapping))
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if first["loc"]:  # a field of its own; else the dataclass refused the whole
            message = f"{'.'.join(str(part) for part in first['loc'])}: {message}, got {first['input']!r}"
        raise SynergicError(f"{source}: {message}") from None
