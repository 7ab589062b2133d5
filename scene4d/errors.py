"""What may go wrong through no fault of the program, and the exit code that tells so.

0 done, 2 bad input or usage, 3 out of memory, 4 diverged, 130 cancelled; 1 is left to real bugs, which keep their
traceback.
"""

EXIT_BAD_INPUT = 2
EXIT_OUT_OF_MEMORY = 3
EXIT_DIVERGED = 4
EXIT_CANCELLED = 130  # 128 + SIGINT, as shells count


class InputError(ValueError):
    """The user's input is wrong. The message is one line: what, where, why, what to do."""
