"""The one exception whose message is meant for the person at the keyboard."""


class BadInput(Exception):
    """Something outside the code is wrong; the message names the key or file and what to do.

    The command line prints the message alone and exits with status 1. Anything else that is
    raised is a defect of Lethe and keeps its traceback.
    """
