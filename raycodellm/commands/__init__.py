"""The work of each command, without the parsing of its arguments."""

from raycodellm.commands.request import DONE, FAILED, STOPPED, WRONG, SweepRequest

__all__ = ["DONE", "FAILED", "STOPPED", "WRONG", "SweepRequest"]
