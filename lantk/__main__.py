"""``python -m lantk VERB``: the same as ``lantk VERB``."""

import sys

from lantk.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
