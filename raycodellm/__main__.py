"""`python -m raycodellm`: the command, also where it is not on the PATH."""

from raycodellm.cli import entry

if __name__ == "__main__":
    entry()
