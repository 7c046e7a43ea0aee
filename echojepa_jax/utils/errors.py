"""The exception for mistakes that a user can correct: programs print it without a traceback."""


class UserError(Exception):
    """One sentence that names the cause, with its file or field, and the way out."""


def first_line(error: Exception, longest: int = 300) -> str:
    """The first line of an error of another library, to quote in a sentence; it may be empty."""
    return str(error).strip().partition("\n")[0][:longest]
