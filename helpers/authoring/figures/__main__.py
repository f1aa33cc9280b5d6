"""`python -m helpers.authoring.figures`: draw every picture again."""

import sys

from helpers.authoring.figures import main

sys.exit(main())
