"""The exception for mistakes a user can mend: programs print its sentence, and no traceback."""


class UserError(Exception):
    """A single sentence that names the file or field at fault and the way out."""


def first_line(error: Exception, longest: int = 300) -> str:
    """The first line of another library's error, to quote it in a sentence; it may be empty."""
    return str(error).strip().partition("\n")[0][:longest]
