//! Full disks: of the embedded home, of a lake that is a folder, and of NATS. Nothing is answered 2xx that is not stored,
//! the engine says what is wrong, and goes on when there is room again.

use keyloom_tests::support::{
    disk::SmallDisk,
    engine::{binary, folder},
    wait_for,
};

use super::{
    GO_ON_EVENTS, RECOVER_MAX, features_are_fresh,
    history::{History, Report, Servers, busy_topology},
    lake_stalls,
};

/// Room for a history, and little enough to be filled at once.
const DISK_BYTES: u64 = 256 << 20;
/// What the engine says when its own disk is full: as a write of its database fails, or one before it has come that far.
const NO_ROOM: [&str; 2] = ["make room on the disk and restart the engine", "No space left on device"];
/// Starts on a full disk, the first one before it was full.
const STARTS: u64 = 3;
/// Events that must have been refused by a full server before it gets room: of several requests.
const REFUSED_EVENTS: u64 = 60;
const FULL: &str = "disk full";

/// A history in a folder of which one part is on a small disk. `None`: such a disk is not possible on this machine.
fn start(what: &str, place: &str, seed: u64, with_nats: bool) -> Option<(History, SmallDisk)> {
    let folder = folder();
    let disk = SmallDisk::mount(&folder.path().join(place), DISK_BYTES)?;
    let program = disk.inside(&binary("keyloom"), folder.path());
    let servers = |folder: &_| if with_nats { Servers::start(folder, seed, true, false) } else { Servers::default() };
    Some((History::start_in(folder, &program, what, seed, busy_topology(), servers), disk))
}

/// The folder of the embedded home has no room: senders are told to come again, and the engine ends, because its database
/// takes nothing more after a failed write. Something starts it again: in vain while there is no room.
pub fn data_dir_full(rounds: u64, seed: u64) -> Option<Report> {
    let (mut history, disk) = start("embedded, disk full", "data", seed, false)?;
    for _ in 0..rounds {
        history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
        let before = history.ledger.counts();
        disk.fill();
        for start in 0..STARTS {
            if start > 0 {
                history.engine.launch_again();
            }
            let code = history.engine.process.wait(RECOVER_MAX);
            assert_eq!(code, 1, "{}", history.engine.process.output());
            let said = history.engine.process.stderr();
            assert!(NO_ROOM.iter().any(|text| said.contains(text)), "{said}");
        }
        assert!(history.ledger.counts().unknown > before.unknown, "nobody was told that the log took nothing");
        disk.free();
        history.did(FULL);
        history.audit();
        history.ledger.resume();
    }
    Some(history.report())
}

/// The lake's folder has no room: features stay fresh, and the table catches up.
pub fn lake_full(rounds: u64, seed: u64) -> Option<Report> {
    let (mut history, disk) = start("embedded, disk of the lake full", "lake", seed, false)?;
    for _ in 0..rounds {
        history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
        disk.fill();
        lake_stalls(&history);
        history.ledger.wait_stored(10 * GO_ON_EVENTS, RECOVER_MAX);
        features_are_fresh(&history);
        history.ledger.resume();
        let said = history.engine.process.stderr();
        assert!(said.contains("No space left on device") && said.contains("free some space"), "{said}");
        disk.free();
        history.did(FULL);
        history.audit();
        history.ledger.resume();
    }
    Some(history.report())
}

/// NATS has no room: nothing is answered 2xx that it did not store. Once there is room, the server is started again: 2.15.1 was
/// not seen to take events by itself after a write that failed.
pub fn nats_full(rounds: u64, seed: u64) -> Option<Report> {
    let (mut history, disk) = start("NATS and S3, disk of NATS full", "nats", seed, true)?;
    for _ in 0..rounds {
        history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
        let before = history.ledger.counts().unknown;
        disk.fill();
        wait_for("events that the full server does not take", RECOVER_MAX, || {
            let unknown = history.ledger.counts().unknown - before;
            if unknown >= REFUSED_EVENTS { Ok(()) } else { Err(format!("{unknown}")) }
        });
        let said = history.engine.process.stderr();
        assert!(said.contains("a full disk looks like this"), "{said}");
        disk.free();
        let nats = history.servers.nats();
        nats.process.signal("TERM");
        nats.process.wait(RECOVER_MAX);
        nats.restart();
        history.did(FULL);
        history.ledger.wait_stored(GO_ON_EVENTS, RECOVER_MAX);
        history.audit();
        history.ledger.resume();
    }
    Some(history.report())
}
