#!/usr/bin/env python
"""Two to four tested runs side by side: differences, their intervals, and what they changed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.compare import main

if __name__ == "__main__":
    run_script(main)
