#!/usr/bin/env python
"""Train an experiment, validate it every epoch, and keep the best weights."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.dense_train import main

if __name__ == "__main__":
    run_script(main)
