"""raycodellm: how much code, of which kind, at which training stage, on which schedule, makes a model reason better?"""

__version__ = "0.1.0"
