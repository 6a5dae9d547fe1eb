//! A disk that can be full: a tmpfs of limited size in a user namespace of its own, which takes no root and shows nothing
//! of it to the rest of the machine.
//!
//! A process of ours holds the namespace. Everybody else reaches the disk through `/proc/<its id>/root`, so engines and
//! servers stay children of the test as ever, and python finds the files as well.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::skipped;

/// Pieces in which a disk is filled: large ones first, then what is left of a page.
const PIECES_BYTES: [usize; 3] = [1 << 20, 64 << 10, 4 << 10];
/// The name under which `scripts/tools.sh` says that a machine does not permit such a disk.
const SKIP: &str = "small-disk";

/// See the module. Gone with the value, and with the test's process however that ends.
#[derive(Debug)]
pub struct SmallDisk {
    /// Holds the namespace until its standard input ends.
    holder: Child,
    path: PathBuf,
}

impl SmallDisk {
    /// One of `bytes` at `place`, which must not exist yet: `None` on a machine where `scripts/tools.sh` found that user
    /// namespaces are not permitted.
    pub fn mount(place: &Path, bytes: u64) -> Option<Self> {
        if skipped(SKIP) {
            return None;
        }
        let point = place.with_extension("mount");
        fs::create_dir(&point).expect("the test's folder is writable");
        // cat ends when the other end of its standard input does.
        let script = "mount -t tmpfs -o size=\"$1\" tmpfs \"$2\" && echo mounted && exec cat";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", &bytes.to_string()]);
        command.arg(&point).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().unwrap_or_else(|e| panic!("unshare: {e}"));
        let mut said = String::new();
        BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut said).expect("its output is text");
        if said.trim() != "mounted" {
            let output = holder.wait_with_output().expect("a child of this process");
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            panic!("no disk of limited size here: {why}; `make tools` finds that out and says to skip it");
        }
        let path = PathBuf::from(format!("/proc/{}/root{}", holder.id(), point.display()));
        symlink(&path, place).expect("the place is free");
        Some(Self { holder, path })
    }

    /// Leaves no room on it.
    pub fn fill(&self) {
        let mut filler =
            File::options().create(true).append(true).open(self.filler()).expect("a name fits in any case");
        for piece in PIECES_BYTES {
            loop {
                match filler.write(&vec![0; piece]) {
                    Ok(1..) => {}
                    Ok(0) => break,
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("filling {}: {error}", self.path.display()),
                }
            }
        }
    }

    /// Makes the room again that [`SmallDisk::fill`] took.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    /// A program that runs `program` where the disk is mounted, in `folder`: for one that finds out what paths really are, and
    /// would leave the namespace by that. Its process is the program's own.
    pub fn inside(&self, program: &Path, folder: &Path) -> PathBuf {
        let script = folder.join("inside.sh");
        let enter = format!("nsenter --target {} --user --mount --preserve-credentials", self.holder.id());
        let text = format!("#!/bin/sh\nexec {enter} --wd=\"$PWD\" -- '{}' \"$@\"\n", program.display());
        fs::write(&script, text).expect("the test's folder is writable");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("the test's own file");
        script
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.kill()); // it may have ended
        self.holder.wait().expect("a child of this process");
    }
}
