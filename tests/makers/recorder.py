"""A config that remembers which of its fields were read, so that a test finds those without use."""

from typing import Any

from ml_collections import ConfigDict


class Recorder(ConfigDict):
    """A config that remembers which of its fields were read by name.

    `items` and `to_dict` look at a section as a whole, to compare or to keep it: this is no use.
    """

    read: set[str] = set()  # noqa: RUF012  one record for all sections, cleared by the test

    @classmethod
    def of(cls, config: ConfigDict, prefix: str = "") -> "Recorder":
        recorder = cls()
        object.__setattr__(recorder, "_prefix", prefix)
        for name in config:
            value = config[name]
            if isinstance(value, ConfigDict):
                value = cls.of(value, f"{prefix}{name}.")
            recorder[name] = value
        return recorder

    def __getitem__(self, name):
        Recorder.read.add(object.__getattribute__(self, "_prefix") + name)
        return super().__getitem__(name)

    def __getattr__(self, name):
        if not name.startswith("_"):
            return self[name]
        return super().__getattr__(name)

    def items(self) -> list[tuple[str, Any]]:
        return [(name, ConfigDict.__getitem__(self, name)) for name in self]

    def to_dict(self) -> dict[str, Any]:
        return {k: v.to_dict() if isinstance(v, Recorder) else v for k, v in self.items()}
