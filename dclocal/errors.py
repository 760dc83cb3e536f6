"""The errors that a user can cause: each says what was wrong, what was expected and what to do.

The command line prints them as one line on stderr and exits with status 2.
"""


class UserError(Exception):
    """A mistake that the user can mend; `str(error)` is one clear line."""

    def __init__(self, problem: str, remedy: str = ""):
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem} — {remedy}" if remedy else problem)


class ImageError(UserError):
    """A picture that cannot be found, fetched, decoded, or is beyond the limits."""


class BundleError(UserError):
    """A bundle that is missing, damaged, of an unknown format, or cannot be built."""


class PromptError(UserError):
    """A question that cannot be asked: empty, or longer than the context holds."""
