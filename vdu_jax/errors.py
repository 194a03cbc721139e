"""The one exception that means "the user can fix this"."""


class UserError(Exception):
    """A user's mistake: a config key, a path, a checkpoint or a data file.

    The message is a single line that says what is wrong, where, and what to do. The command
    line prints it without a traceback and exits with code 2. Faults of the library itself use
    any other exception and keep their traceback.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))
