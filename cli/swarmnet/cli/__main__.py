"""The process `swarmnet`, also as `python -m swarmnet.cli`.

Most live for a tenth of a second, a quarter of which would go to collecting garbage while importing and to
taking down gRPC's threads; so neither is done.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn


def program() -> NoReturn:
    gc.disable()
    from swarmnet.cli.main import main

    try:
        status = main()
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = 1
    os._exit(status)


if __name__ == "__main__":
    program()
