#!/usr/bin/env python
"""One page about a tested run: tables with baselines, errors, cases, curves, options."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.report import main

if __name__ == "__main__":
    run_script(main)
