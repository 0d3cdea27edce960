"""Plugins, good and bad, that the tests announce."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Good:
    """A plugin as it should be."""

    api_version: ClassVar[int] = 1
    capabilities: ClassVar[frozenset[str]] = frozenset({"numeric"})

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        threshold: float = Field(0.1, gt=0)
        columns: list[str] = []

    def __init__(self, config: Config) -> None:
        if config.threshold > 1000:
            raise ValueError("secret")
        self.config = config


class Sloppy(Good):
    __doc__ = None

    class Config(BaseModel):
        needed: int


class Old(Good):
    """Of an earlier version."""

    api_version = 0


class NoConfig:
    """Without a Config."""

    api_version = 1
    capabilities: ClassVar[frozenset[str]] = frozenset()


class NoCapabilities(Good):
    """With a list."""

    capabilities = ["numeric"]  # type: ignore[assignment]


not_a_class = 7
