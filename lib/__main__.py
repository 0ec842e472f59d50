"""``python -m dmr_jrg COMMAND`` is ``dmr-jrg COMMAND``."""

from .commands.console import main

if __name__ == "__main__":
    main()
