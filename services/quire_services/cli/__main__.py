"""``python -m quire_services.cli``: the ``quire`` command where it is not on the path."""

import sys

from . import main

sys.exit(main())
