"""The one exception that means "the user can mend this": bad input, bad config, bad workdir."""


class UserError(Exception):
    """A mistake in what the user gave, told in one line.

    The message names the file or field, what was expected, what was found and what to do. The command
    line prints it without a traceback and exits with status 2; library callers can catch it.
    """
