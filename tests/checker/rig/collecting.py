"""Not yet."""


def run(tally):
    pass
