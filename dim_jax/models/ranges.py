"""Ranges of the networks' fields; a configuration reads default and range off a module's fields."""

from typing import Annotated

from annotated_types import Interval

Width = Annotated[float, Interval(gt=0, le=32)]
Rate = Annotated[float, Interval(ge=0, lt=1)]
Count = Annotated[int, Interval(ge=1)]
Dilation = Annotated[int, Interval(ge=0)]
