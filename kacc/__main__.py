"""`python -m kacc` is the command `kacc`."""

import sys

from kacc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
