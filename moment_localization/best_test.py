#!/usr/bin/env python
"""Score the best checkpoint of an experiment and write its tables."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.best_test import main

if __name__ == "__main__":
    run_script(main)
