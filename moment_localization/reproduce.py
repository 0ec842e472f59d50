#!/usr/bin/env python
"""Train and test all rows of a table, and write its page."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.reproduce import main

if __name__ == "__main__":
    run_script(main)
