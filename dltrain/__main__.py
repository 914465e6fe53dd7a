"""``python -m dltrain`` is ``dltrain``."""

import sys

from dltrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
