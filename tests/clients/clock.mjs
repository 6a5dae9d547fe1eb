// A clock that stands still and is years behind: what a client says of times is then known to the millisecond, and its
// clock is wrong by more than any tolerance. Import it before the client. Timers are monotonic and go on as ever.

const RealDate = globalThis.Date;
// When every client begins, in the client's opinion.
const BEGIN = RealDate.UTC(2020, 4, 17, 12, 0, 0);
let seconds = 0;

class StandingDate extends RealDate {
  constructor(...parts) {
    if (parts.length > 0) super(...parts);
    else super(StandingDate.now());
  }

  static now() {
    return BEGIN + seconds * 1000;
  }
}

globalThis.Date = StandingDate;

/** Moves the clock to so many seconds behind its beginning. */
export function moveTo(next) {
  seconds = next;
}

/** A time so many seconds behind the beginning. */
export function at(offset) {
  return new StandingDate(BEGIN + offset * 1000);
}
