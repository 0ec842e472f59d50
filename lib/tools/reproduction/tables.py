"""A table of a paper as a file says it: its rows and what trains each, the published numbers, and
what the paper claims of them; and the corpora on which it can be trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...base.errors import InputError
from ...base.installed import FOLDER, REPOSITORY
from ...base.schema import listed, mapping, number, optional, record, text
from ...base.yaml_file import read_checked
from ...evaluation import PROTOCOLS

CORPORA = "corpora.yaml"

Numbers = tuple[float | None, ...]


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        experiment: the name of what trains it, a file in the folder of the corpus; "" for a row
            that cannot be trained.
        options: what it changes there, by dotted name.
        absent: why it cannot be trained, a sentence.
        title: what the paper calls it.
        published: corpus -> the paper's numbers, in the order of the table's metrics; None where
            the paper has none.
    """

    experiment: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    absent: str = ""
    title: str = ""
    published: Mapping[str, Numbers] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """What a paper says of its table: a row is better than others."""

    text: str
    better: str
    than: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        protocols: protocol -> metrics, in order; the published numbers are of the first.
        reference: the row with which the others are compared, at ``compared_at``, a metric.
    """

    name: str
    title: str
    protocols: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, Row]
    reference: str
    compared_at: str
    corpus: str  # where nothing else is asked for
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()

    def only(self, names: Sequence[str]) -> Table:
        """The table with these rows alone, and the claims about them.

        Raises:
            InputError: a name that no row has.
        """
        unknown = [name for name in names if name not in self.rows]
        if unknown:
            raise InputError(
                f"{self.name} has no row {', '.join(unknown)}; it has {', '.join(self.rows)}"
            )
        claims = []
        for claim in self.claims:
            than = tuple(name for name in claim.than if name in names)
            if claim.better in names and than:
                claims.append(Claim(claim.text, claim.better, than))
        return Table(
            self.name,
            self.title,
            self.protocols,
            {name: row for name, row in self.rows.items() if name in names},
            self.reference,
            self.compared_at,
            self.corpus,
            tuple(claims),
            self.notes,
        )


@dataclass(frozen=True)
class CorpusOfTable:
    """Where the experiments of a corpus lie.

    Attributes:
        folder: of the experiments.
        files: experiment -> name of its file, where that is another one.
        options: what all runs on it change.
        tag: begins the end of the run folders' names, where several corpora share experiments.
    """

    name: str
    title: str
    folder: Path
    files: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    tag: str = ""
    notes: tuple[str, ...] = ()

    def path(self, experiment: str) -> Path:
        """Of the file that trains an experiment on this corpus, whether or not it is there."""
        return self.folder / f"{self.files.get(experiment, experiment)}.yaml"


_OPTIONS = mapping()
_TABLE = record(
    {
        "TITLE": text,
        "PROTOCOLS": mapping(listed(text)),
        "CORPUS": text,
        "REFERENCE": text,
        "COMPARED_AT": text,
        "ROWS": mapping(
            record(
                {
                    "EXPERIMENT": text,
                    "TITLE": text,
                    "OPTIONS": _OPTIONS,
                    "ABSENT": text,
                    "PUBLISHED": mapping(listed(optional(number(0, 1000)))),
                }
            )
        ),
        "CLAIMS": listed(
            record(
                {"TEXT": text, "BETTER": text, "THAN": listed(text)},
                needed=("TEXT", "BETTER", "THAN"),
            )
        ),
        "NOTES": listed(text),
    },
    needed=("TITLE", "PROTOCOLS", "CORPUS", "REFERENCE", "COMPARED_AT", "ROWS"),
)
_CORPORA = mapping(
    record(
        {
            "TITLE": text,
            "FOLDER": text,
            "FILES": mapping(text),
            "OPTIONS": _OPTIONS,
            "TAG": text,
            "NOTES": listed(text),
        },
        needed=("TITLE", "FOLDER"),
    )
)


def tables_folder() -> Path:
    """Of the tables that ship."""
    installed = FOLDER / "experiments"
    return (installed if installed.is_dir() else REPOSITORY / "experiments") / "tables"


def table_names() -> list[str]:
    """Of the tables that ship."""
    return sorted(p.stem for p in tables_folder().glob("*.yaml") if p.name != CORPORA)


def read_table(name: str) -> Table:
    """A table that ships, by its name, or one of a user's, by the path of its file.

    Raises:
        InputError: there is none, or it is none, or it speaks of rows, protocols or metrics that
            are not there.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    elif name in table_names():
        path = tables_folder() / f"{name}.yaml"
    else:
        raise InputError(
            f"there is no table {name[:40]!r}; there are {', '.join(table_names())}, and a file "
            "of your own is named with its ending, .yaml"
        )
    found = read_checked(path, "TABLE", _TABLE)
    rows = {key: _row(key, entry, path) for key, entry in found["ROWS"].items()}
    table = Table(
        name=path.stem,
        title=found["TITLE"],
        protocols={key: tuple(metrics) for key, metrics in found["PROTOCOLS"].items()},
        rows=rows,
        reference=found["REFERENCE"],
        compared_at=found["COMPARED_AT"],
        corpus=found["CORPUS"],
        claims=tuple(
            Claim(claim["TEXT"], claim["BETTER"], tuple(claim["THAN"]))
            for claim in found.get("CLAIMS", ())
        ),
        notes=tuple(found.get("NOTES", ())),
    )
    _check(table, path)
    return table


def _row(name: str, entry: Mapping[str, Any], path: Path) -> Row:
    if ("EXPERIMENT" in entry) == ("ABSENT" in entry):
        raise InputError(
            f"{path}: the row {name} needs either EXPERIMENT, the name of what trains it, or "
            "ABSENT, a sentence on why nothing does"
        )
    return Row(
        entry.get("EXPERIMENT", ""),
        entry.get("OPTIONS", {}),
        entry.get("ABSENT", ""),
        entry.get("TITLE", name),
        {corpus: tuple(values) for corpus, values in entry.get("PUBLISHED", {}).items()},
    )


def _check(table: Table, path: Path) -> None:
    """Whether a table speaks of what is there."""
    unknown = [name for name in table.protocols if name not in PROTOCOLS]
    if unknown or not table.protocols:
        known = ", ".join(PROTOCOLS)
        raise InputError(f"{path}: PROTOCOLS has {unknown or 'nothing'}; expected some of {known}")
    for claim in table.claims:
        for name in (claim.better, *claim.than):
            if name not in table.rows:
                raise InputError(f"{path}: a claim is about {name!r}, which is no row")
    if table.reference not in table.rows or table.rows[table.reference].absent:
        raise InputError(
            f"{path}: REFERENCE is {table.reference!r}, expected a row with EXPERIMENT"
        )
    metrics = next(iter(table.protocols.values()))
    if table.compared_at not in metrics:
        raise InputError(
            f"{path}: COMPARED_AT is {table.compared_at!r}, expected a metric of the first protocol"
        )
    for name, row in table.rows.items():
        for corpus, values in row.published.items():
            if len(values) != len(metrics):
                raise InputError(
                    f"{path}: the row {name} has {len(values)} published numbers on {corpus}, "
                    f"expected {len(metrics)}, those of the first protocol"
                )


def read_corpora() -> dict[str, CorpusOfTable]:
    """The corpora that ship with experiments, by name."""
    path = tables_folder() / CORPORA
    found = read_checked(path, "CORPORA", _CORPORA)
    return {
        name: CorpusOfTable(
            name,
            entry["TITLE"],
            (path.parent / entry["FOLDER"]).resolve(),
            entry.get("FILES", {}),
            entry.get("OPTIONS", {}),
            entry.get("TAG", ""),
            tuple(entry.get("NOTES", ())),
        )
        for name, entry in found.items()
    }


def find_corpus(name: str) -> CorpusOfTable:
    """A corpus that ships, by name, or a folder with experiments of a user's own.

    Raises:
        InputError: it is neither.
    """
    corpora = read_corpora()
    if name in corpora:
        return corpora[name]
    folder = Path(name)
    if folder.is_dir() and any(folder.glob("*.yaml")):
        return CorpusOfTable(folder.name, f"the experiments in {name}", folder.resolve())
    raise InputError(
        f"--corpus: {name[:60]!r} is none; there are {', '.join(corpora)}, and a folder with "
        "experiments (YAML files named as the rows' EXPERIMENT) can be named by its path"
    )
