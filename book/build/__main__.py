"""``python -m book.build``."""

import sys

from book.build.site import main

sys.exit(main())
