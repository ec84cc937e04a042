"""What each command does, without parsing of arguments."""

from raycodellm.commands.request import DONE, FAILED, STOPPED, WRONG, SweepRequest

__all__ = ["DONE", "FAILED", "STOPPED", "WRONG", "SweepRequest"]
