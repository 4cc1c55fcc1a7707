"""`python -m swarmnet.cli`: the same as `swarmnet`."""

import sys

from swarmnet.cli.main import main

sys.exit(main())
