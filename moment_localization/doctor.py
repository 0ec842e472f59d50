#!/usr/bin/env python
"""Check a data folder against an experiment, before days are spent on it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.doctor import main

if __name__ == "__main__":
    run_script(main)
