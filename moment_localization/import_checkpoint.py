#!/usr/bin/env python
"""Turn a published checkpoint into the best.pt of an experiment, for best_test.py to score."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.import_checkpoint import main

if __name__ == "__main__":
    run_script(main)
