"""What the commands exit with."""

DONE = 0
FINDING = 1
BAD_INPUT = 2
UNSAFE_FILE = 3
INTERRUPTED = 130
