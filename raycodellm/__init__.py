"""raycodellm: how much code, of which kind, at which training stage, on which schedule, makes a model reason better?"""

import time

__version__ = "0.1.0"

STARTED = time.monotonic()
"""When this process imported the package, in seconds of the monotonic clock."""
