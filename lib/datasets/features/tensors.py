"""One file of ``torch.save`` that holds a dictionary of all videos' tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...base.errors import InputError
from .arrays import tensor_values, torch_content, torch_entry
from .store import Entry, Store


class TensorFile(Store):
    """``{video: tensor}``, or ``{video: {member: tensor}}``; the numbers stay on the disk until
    they are asked for.

    Args:
        member: which tensor of a video with several; empty = see ``choose_member``.
    """

    kind = "a file of torch.save"

    def __init__(self, path: Path, *, member: str = "") -> None:
        super().__init__(path)
        self.member = member
        self._content: dict[str, Any] | None = None

    @property
    def content(self) -> dict[str, Any]:
        if self._content is None:
            found = torch_content(self.path)
            if not isinstance(found, Mapping) or not found:
                raise InputError(
                    f"{self.path}: holds a {type(found).__name__}; expected a dictionary of videos "
                    "and tensors."
                )
            self._content = {str(name): value for name, value in found.items()}
        return self._content

    def names(self) -> list[str]:
        return sorted(self.content)

    def has(self, name: str) -> bool:
        return name in self.content

    def entry(self, name: str) -> Entry | None:
        if name not in self.content:
            return None
        entry = torch_entry(self.content[name], f"{self.path}: {name}", name, self.member)
        if entry is None:
            raise InputError(
                f"{self.path}: {name} is a {type(self.content[name]).__name__}; expected a tensor."
            )
        return entry

    def values(self, entry: Entry) -> np.ndarray:
        return tensor_values(entry, f"{self.path}: {entry.name}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_content": None}
