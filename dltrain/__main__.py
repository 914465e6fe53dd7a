"""``python -m dltrain`` is ``dltrain``."""

from dltrain.cli import command

if __name__ == "__main__":
    command()
