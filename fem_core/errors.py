"""The one exception for what a user can mend.

Contract: its text is one sentence saying what happened (with the value) and one saying what to do.
The command line prints it as it is and exits with 2; a Prefect run shows it as the failure's message.
"""


class FemError(Exception):
    """A mistake in the input or the surroundings that the user can mend."""


class StoreConflict(FemError):
    """The store already holds something else under this name."""


class Corrupt(FemError):
    """A file in the store does not have the digest that its manifest records."""


class StoreAway(Exception):
    """The store does not answer, after all the patience it was given. Nothing is wrong that waiting could not mend."""


class VerifierTimeout(Exception):
    """A verifier did not answer within its time limit; the verdict is then ``verifier_timeout``."""
