"""python -m federation: the same command line as the console script."""

from federation.cli import main

if __name__ == "__main__":
    main(prog_name="federation")
