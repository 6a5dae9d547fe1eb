"""A clock that stands still and is years behind: what a client says of times is then known to the millisecond, and its
clock is wrong by more than any tolerance. Not a clock for waiting: timers and timeouts are monotonic and go on as ever."""

import datetime
import time

# When every client begins, in the client's opinion.
BEGIN = datetime.datetime(2020, 5, 17, 12, 0, 0, tzinfo=datetime.timezone.utc)


class Clock:
    """Seconds since `BEGIN` as the client believes them; moved by hand."""

    def __init__(self):
        self.seconds = 0.0

    def at(self, seconds):
        """A time, as a `datetime` of the kind that the client makes itself."""
        return StandingDatetime.fromtimestamp(BEGIN.timestamp() + seconds, datetime.timezone.utc)

    def now(self):
        return BEGIN.timestamp() + self.seconds


CLOCK = Clock()


class StandingDatetime(datetime.datetime):
    """What modules get that read the time from `datetime`, which cannot be changed itself."""

    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(CLOCK.now(), tz)


def install(*modules):
    """Gives this process the clock, and each of `modules`, which have `datetime` by name."""
    time.time = CLOCK.now
    for module in modules:
        module.datetime = StandingDatetime
    return CLOCK
