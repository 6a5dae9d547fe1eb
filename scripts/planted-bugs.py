#!/usr/bin/env python3
"""Whether the simulation would catch us: plants one defect after the other in a scratch copy of this repository, runs the
simulation there, and prints how many histories noticed.   scripts/planted-bugs.py [seeds] [defect]

Not a test: a defect that is not noticed is news for docs/RELIABILITY.md, not a failure."""
import os
import pathlib
import re
import signal
import subprocess
import sys

CELL, SHARD, RECORD = "actors/src/session/cell.rs", "actors/src/session/shard.rs", "actors/src/checkpoint/record.rs"
COMMITTER, BATCHER, CORE = "actors/src/checkpoint/committer.rs", "actors/src/table/batcher.rs", "actors/src/session/step.rs"
PARTITION, TICKER, WORLD = "actors/src/partition/mod.rs", "actors/src/partition/ticker.rs", "actors/tests/support/world.rs"

# Name: file, then pairs of what stands there and what is planted instead.
DEFECTS = {
    "no fence and no chain": (WORLD, "if (claim.epoch, claim.head) != (store.epoch, store.batches) {", "if claim.epoch == 0 {"),
    "newest state version, whatever the checkpoint says": (RECORD, "if !checkpoint.is_valid(tag) {", "if checkpoint.n > u64::MAX - 1 {"),
    "features not published before the record": (SHARD, "shares.answers.extend(answer(&mut cell, &self.args, self.delivered));", ""),
    "lagging keys not recorded": (COMMITTER, "next.lagging = lagging.iter().map(|(key, _)| key.to_string()).collect();", "next.lagging = Vec::new();"),
    "evicted state dropped before the acknowledgement": (CELL, "!self.dirty && self.in_flight.is_none() &&", "!self.dirty &&"),
    "record read before the claim": (
        PARTITION,
        "    let mut claim = homes.store.claim(partition, &plan.owner).await?; // first claim, then read\n"
        "    let first_epoch = *first_epoch.get_or_insert(claim.epoch);\n", "",
        "    let mut next = || records.next().flatten();",
        "    let mut claim = homes.store.claim(partition, &plan.owner).await?;\n"
        "    let first_epoch = *first_epoch.get_or_insert(claim.epoch);\n    let mut next = || records.next().flatten();"),
    "cursor before PUT": (
        BATCHER,
        "        let mut after = Output { cursor: last, ..before };", "        let mut late = Vec::new();\n        let mut after = Output { cursor: last, ..before };",
        "            self.put(&name, file).await;", "            late.push((name, file));",
        "        Ok(after)\n", "        for (name, file) in late {\n            self.put(&name, file).await;\n        }\n        Ok(after)\n"),
    "dedupe ids changed on failure": (
        CORE, "        let first = rows.len();\n        self.fire(",
        "        if let Some(id) = e.id_hash {\n            self.recent.push(id);\n        }\n        let first = rows.len();\n        self.fire("),
    "a lagging key joins checkpoints only once its state is here": (CELL, "self.dirty || self.owes || self.has_any()", "self.dirty || self.has_any()"),
    "an interrupted cut is not repeated": (BATCHER, "recut: args.intent.clone(),", "recut: None,"),
    "rows of undone events are kept": (
        CELL, "        self.rows.truncate(self.rows.partition_point(|row| row.seq <= applied));\n", ""),
    "rows of owed events go with the checkpoint": (
        CELL, "let count = self.rows.partition_point(|row| row.seq <= applied);", "let _ = applied;\n        let count = self.rows.len();"),
    "an outbox is read beyond the last block that counts": (
        BATCHER, "Self::Outbox { .. } => status.outbox_last(table),", "Self::Outbox { .. } => status.outbox_last(table) + 1,"),
    "the end of an outbox is not in the record": (
        COMMITTER, "        next.outbox.extend(blocks.ends().map(|(table, end)| (table.to_owned(), end)));\n", ""),
    "nobody reads which keys have timers at a start": (TICKER, "loaded: false,", "loaded: true,"),
    "checkpoints do not say when keys have timers": (
        CELL, "let first_timer = (self.stored_due != Some(due)).then_some(due);\n        self.stored_due", "let first_timer = None;\n        self.stored_due"),
    "what an unfinished checkpoint said of timers is trusted": (RECORD, "            found.is_after_crash = true;\n", ""),
    "a tick does not put right what the store says of timers": (CELL, "            self.stored_due = None; // it came", "            // it came"),
    "timers of a rejected timer's handler stay changed": (CORE, "                    self.waiting = waiting.undone();\n                    tracing::warn", "                    self.waiting = waiting.done();\n                    tracing::warn"),
    "a condemned event takes innocent timers along": (CELL, "spares_timers: !failure.in_timer", "spares_timers: false"),
    "an answer that is a dead letter leaves its question open": (CORE, "        drop(self.take_question(event));\n", ""),
    "what was asked before a crash is not asked again": (
        RECORD, "if rest.first().is_some_and(|look_ups| *look_ups > 0) { Some(Timestamp(0)) } else { timers.next_due() }", "timers.next_due()"),
    "blocks are removed before their cursor": (
        BATCHER, "        fault_point::reached(fault_point::BEFORE_CURSOR);\n",
        "        after.removed = self.remove_blocks(&after).await;\n        fault_point::reached(fault_point::BEFORE_CURSOR);\n"),
}

here = pathlib.Path(__file__).resolve().parent.parent
scratch = here / "target" / "planted"
seeds = sys.argv[1] if len(sys.argv) > 1 else "2000"
chosen = sys.argv[2:] or DEFECTS


# Seconds that the histories of one defect may take: with some of them one might never end.
LIMIT = 300


def run(*command, **more):
    return subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False, **more)


def run_limited(*command, env):
    """The output of a command, or None when it does not end; whatever it started ends with it."""
    process = subprocess.Popen(command, cwd=scratch, env=env, text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        return process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None


if not scratch.exists():
    subprocess.run(["git", "clone", "--quiet", here, scratch], check=True)
run("git", "fetch", "--quiet", str(here), "HEAD")
environment = {**os.environ, "SEEDS": seeds, "CARGO_TARGET_DIR": str(here / "target" / "planted-target")}
print(f"{'planted defect':62} noticed in {seeds} histories")
for name in chosen:
    run("git", "reset", "--quiet", "--hard", "FETCH_HEAD")
    file, *changes = DEFECTS[name]
    path = scratch / file
    text = path.read_text()
    for before, after in zip(changes[::2], changes[1::2]):
        if before not in text:
            sys.exit(f"{name}: {file} has changed; {before!r} is not there")
        text = text.replace(before, after)
    path.write_text(text)
    command = ["cargo", "test", "--release", "--package", "keyloom-actors", "--test", "scenarios"]
    built = run(*command, "--no-run", env=environment)
    if built.returncode != 0:
        print(f"{name:62} does not compile: {built.stderr[-400:]}", flush=True)
        continue
    output = run_limited(*command, "simulation", "--", "--nocapture", env=environment)
    found = output and re.search(r"(\d+) seeds, (\d+) failed", output[0])
    print(f"{name:62} {found[2] if found else 'no count within ' + str(LIMIT) + ' s'}", flush=True)
