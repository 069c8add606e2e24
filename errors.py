"""The one exception that a user is meant to read."""


class SonokitError(Exception):
    """A fault that the user can mend.

    The message is one or two lines: what is wrong, in which file or argument, and what to do about it. The command line prints
    it without a traceback; everything else that escapes is a defect of sonokit and keeps its traceback.
    """
