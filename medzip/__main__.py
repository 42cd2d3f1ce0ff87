"""`python -m medzip`: the same as the command `medzip`."""

import sys

from medzip.cli import main

if __name__ == "__main__":
    sys.exit(main())
