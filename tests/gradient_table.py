"""What teaches what: which loss term's gradient reaches which part of a model.

    python -m tests.gradient_table            prints the tables
    python -m tests.gradient_table --write    and keeps them in tests/data/gradients/

A row is a loss term, a column a module that stands directly in the model (or a parameter of its
own), and an x a gradient other than zero in one of several draws of weights. What a model keeps
away from its encoders, by ``detach`` or by a choice that is no function, shows as a dot.
``tests/test_gradient_table.py`` holds the files to what is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from unittest import mock

import torch

import lib.models.layers.text as text_module
from lib.losses import Criterion
from lib.models import MODELS
from lib.models.interface import Model
from tests.properties import Build, make_batch, terms_of
from tests.tiny_text import tiny_pretrained
from tests.variants import VARIANTS

FOLDER = Path(__file__).parent / "data" / "gradients"
DRAWS = 4  # of weights, batches and masked words: a hinge may be satisfied in one
Table = dict[str, dict[str, bool]]  # term -> module -> reached


def table(build: Build) -> Table:
    """Of one variant of a model."""
    reached: Table = {}
    for seed in range(DRAWS):
        torch.manual_seed(seed)
        model, batch = build(), make_batch((4, 2, 5, 1, 3))
        for term in terms_of(model):
            torch.manual_seed(seed)
            trained = _reached_by(model, term, batch)
            row = reached.setdefault(term, dict.fromkeys(trained, False))
            for name, learns in trained.items():
                row[name] |= learns
    return reached


def _reached_by(model: Model, term: str, batch: object) -> dict[str, bool]:
    model.zero_grad(set_to_none=True)
    criterion = Criterion(model.losses(), {term: 1.0})
    criterion(model(batch, terms=criterion.active), batch)["total"].backward()
    trained: dict[str, bool] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = name.split(".")[0]
            gradient = parameter.grad
            learns = gradient is not None and bool(gradient.abs().max() > 1e-12)
            trained[part] = trained.get(part, False) or learns
    return trained


def shown(reached: Table) -> str:
    """For readers: modules are numbered above the rows of terms."""
    parts = list(next(iter(reached.values())))
    width = max(map(len, reached))
    lines = [f"  {' ' * width} {'| ' * i}{part}" for i, part in enumerate(parts)]
    lines += [
        f"  {term:{width}} {' '.join('x' if row[part] else '.' for part in parts)}"
        for term, row in reached.items()
    ]
    return "\n".join(lines)


def page(name: str) -> str:
    """All variants of a model."""
    head = f"What teaches what in {name}: python -m tests.gradient_table --write\n"
    blocks = [head]
    with mock.patch.object(text_module, "read_pretrained", lambda folder: tiny_pretrained()):
        for variant, build in VARIANTS.items():
            if variant.split(",")[0] == name:
                blocks.append(f"{variant}\n\n{shown(table(build))}\n")
    return "\n".join(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep the tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    for name in MODELS:
        text = page(name)
        if args.write:
            (FOLDER / f"{name}.txt").write_text(text, "utf-8")
        print(text)


if __name__ == "__main__":
    main()
