"""``python -m book.ledger``."""

import sys

from book.ledger.check import main

sys.exit(main())
