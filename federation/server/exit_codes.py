"""Exit codes of every command; `federation --help` explains them to users."""

OK = 0
FOUND_PROBLEMS = 1
BAD_USAGE = 2
CANNOT_RUN = 3
INTERRUPTED = 130
