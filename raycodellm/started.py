"""When this process began: the package imports this module before any other."""

import time

STARTED = time.monotonic()
"""In seconds of the monotonic clock."""
