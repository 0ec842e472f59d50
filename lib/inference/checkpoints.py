"""Trained runs that can be loaded by name: where each lies, and the digest by which it is known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import InputError
from ..base.schema import fail, mapping, number, record, text, whole
from ..base.yaml_file import read_checked
from ..evaluation import PROTOCOLS

MANIFEST = Path(__file__).with_name("checkpoints.yaml")
DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Checkpoint:
    """A trained run that lies somewhere.

    Attributes:
        url: of the run in one file.
        sha256: of that file's bytes.
        size: of it, in bytes.
        experiment: the path of its YAML below ``experiments/``, without the suffix.
        results: protocol -> metric -> its test's score, and the best score without a model.
    """

    name: str
    url: str
    sha256: str
    size: int
    experiment: str
    results: Mapping[str, Mapping[str, tuple[float, float]]]

    @property
    def address(self) -> str:
        """As ``load`` takes it."""
        return f"{self.url}#sha256={self.sha256}"


def _digest(value: Any, name: str) -> None:
    if not isinstance(value, str) or not DIGEST.fullmatch(value):
        fail(name, value, "64 hexadecimal digits in quotes, as export prints them")


_SCORE = record({"SCORE": number(), "FLOOR": number()}, needed=("SCORE", "FLOOR"))
_CHECKPOINTS = mapping(
    record(
        {
            "URL": text,
            "SHA256": _digest,
            "BYTES": whole(1),
            "EXPERIMENT": text,
            "RESULTS": mapping(mapping(_SCORE)),
        },
        needed=("URL", "SHA256", "BYTES", "EXPERIMENT", "RESULTS"),
    )
)


def read_checkpoints(path: Path = MANIFEST) -> dict[str, Checkpoint]:
    """The runs of a manifest, by name.

    Raises:
        InputError: it cannot be read, or an entry is none.
    """
    found = {}
    for name, entry in read_checked(path, "CHECKPOINTS", _CHECKPOINTS).items():
        unknown = [protocol for protocol in entry["RESULTS"] if protocol not in PROTOCOLS]
        if unknown or not entry["RESULTS"]:
            known = ", ".join(PROTOCOLS)
            raise InputError(
                f"{path}: {name} has RESULTS of {unknown or 'nothing'}; expected some of {known}"
            )
        for protocol, scores in entry["RESULTS"].items():
            strange = [metric for metric in scores if not PROTOCOLS[protocol].counts(metric)]
            if strange or not scores:
                raise InputError(
                    f"{path}: {name} has {strange or 'nothing'} under {protocol}, expected metrics "
                    "that it counts, as in the results.md of a test"
                )
        results = {
            protocol: {metric: (each["SCORE"], each["FLOOR"]) for metric, each in scores.items()}
            for protocol, scores in entry["RESULTS"].items()
        }
        found[name] = Checkpoint(
            *(name, entry["URL"], entry["SHA256"], entry["BYTES"], entry["EXPERIMENT"], results)
        )
    return found
