#!/usr/bin/env python
"""Write a trained run as safetensors and JSON: to keep it, to pass it on, or for other programs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib.base.command import run_script
from lib.commands.export import main

if __name__ == "__main__":
    run_script(main)
