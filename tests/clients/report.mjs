// What a client's script knows of its own deliveries: events sent and events that the client says are delivered. The last
// line of its output is `{"sent": n}`; a failure, or an event that the client is silent about, ends it with 1.

// How long a client may take to say what became of its events.
const PATIENCE_MS = 30_000;
const counts = { sent: 0, delivered: 0 };
const failures = [];

export function sent(events = 1) {
  counts.sent += events;
}

/** To be hooked in as what a client calls when events have arrived. */
export function delivered(events = 1) {
  counts.delivered += events;
}

/** To be hooked in as what a client calls when it gives up. */
export function failed(why) {
  failures.push(why instanceof Error ? `${why.message} ${why.cause ?? ""}` : String(why));
}

export function expect(condition, why) {
  if (!condition) failed(why);
}

/** How many events the client was given or made. */
export function seen() {
  return counts.sent;
}

/** Waits for something, or for a failure, no longer than the patience. */
export async function until(isDone) {
  const deadline = performance.now() + PATIENCE_MS;
  while (failures.length === 0 && !isDone() && performance.now() < deadline) {
    await new Promise((wake) => setTimeout(wake, 5));
  }
}

/** Waits until the client has said of each event so far what became of it. */
export function settled() {
  return until(() => counts.delivered >= counts.sent);
}

/** The same, and ends the script. */
export async function finish() {
  await settled();
  console.log(JSON.stringify({ sent: counts.sent }));
  for (const failure of failures) console.error(`the client gave up: ${failure}`);
  const all = counts.delivered === counts.sent;
  if (!all) console.error(`the client knows of ${counts.delivered} deliveries of ${counts.sent}`);
  process.exit(all && failures.length === 0 ? 0 : 1);
}
