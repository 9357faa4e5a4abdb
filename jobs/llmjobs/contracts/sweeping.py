"""What a sweep tries: several values of a recipe's fields, each combination of them one candidate."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Annotated, Self

from pydantic import Field, model_validator

from llmjobs.contracts.base import Strict

FRACTION, LEARNING_RATE, RANK = "data.fraction", "train.learning_rate", "lora.r"

SAID = {FRACTION: "{} of the rows", LEARNING_RATE: "learning rate {}", RANK: "rank {}"}
"""How a candidate's value is told, by the dotted path of its field; the braces are the value's place."""

Settings = dict[str, int | float]
"""Values of one candidate, by the dotted paths of their fields."""


class Sweep(Strict):
    """Several candidates, one for each combination of the lists; the best on the validation split goes on."""

    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(), description="Parts of the train rows, each above 0 and at most 1; the best rows first"
    )
    learning_rates: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(), description="Peak learning rates, instead of train.learning_rate"
    )
    ranks: tuple[Annotated[int, Field(ge=1, le=512)], ...] = Field(
        default=(), description="Ranks of the adapter, instead of lora.r; lora.alpha stays as it is"
    )

    @model_validator(mode="after")
    def _compares_something(self) -> Self:
        lists = self.model_dump()
        if not any(lists.values()):
            raise ValueError(f"sweep is empty: give at least one list of two values: {', '.join(lists)}")
        for name, values in lists.items():
            said = ", ".join(f"{value:g}" for value in values)
            if len(values) == 1:
                raise ValueError(f"sweep.{name} has one value ({said}): give two or more, or leave the list out")
            if len(set(values)) < len(values):
                raise ValueError(f"sweep.{name} names a value twice: {said}")
        return self

    @property
    def candidates(self) -> list[Settings]:
        """The combinations, the smallest values first: fractions, then learning rates, then ranks."""
        lists = {FRACTION: self.fractions, LEARNING_RATE: self.learning_rates, RANK: self.ranks}
        swept = {path: sorted(values) for path, values in lists.items() if values}
        return [dict(zip(swept, values, strict=True)) for values in product(*swept.values())]


def told(settings: Mapping[str, int | float]) -> str:
    """Return a candidate's values in words, such as ``learning rate 0.0002, rank 8``, in whatever order they come."""
    return ", ".join(said.format(f"{settings[path]:g}") for path, said in SAID.items() if path in settings)
