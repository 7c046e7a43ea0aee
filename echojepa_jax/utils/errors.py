"""The exception for mistakes a user can mend: programs print its sentence, and no traceback."""


class UserError(Exception):
    """A single sentence that names the file or field at fault and the way out."""
