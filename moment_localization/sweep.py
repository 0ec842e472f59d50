#!/usr/bin/env python
"""Train and test an experiment several times: seeds, and rows of changed options."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.sweep import main

if __name__ == "__main__":
    run_script(main)
