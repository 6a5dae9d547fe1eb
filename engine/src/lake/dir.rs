//! A lake in a folder: objects are files, and their names are paths below the folder.
//!
//! A file appears whole or not at all, also across a crash of the machine: it is written under a hidden name in its own
//! folder, forced to disk, renamed, and the folder forced to disk as well. Not for folders that several machines share
//! with different ideas of locks.

use std::{
    collections::HashSet,
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use keyloom_actors::ports::{Lake, LakeError};

use super::names::{self, TEMP_PREFIX};

/// Folders known to be on disk. Each saves an fsync per put; beyond this many, all are learnt anew.
const FOLDERS_KNOWN_MAX: usize = 4_096;
/// How deep folders are looked into. Object names cannot nest deeper than this in any topology.
const DEPTH_MAX: usize = 32;
/// How many files and folders a search for leftovers looks at: a second or two of starting. The rest keeps its
/// leftovers, which cost disk space and nothing else.
const LEFTOVER_ENTRIES_MAX: usize = 500_000;
/// Most names in one listing, some 200 MB of memory.
const LIST_NAMES_MAX: usize = 1_000_000;
/// How many hidden names are tried: they are taken only by leftovers of an earlier process with our id.
const TEMP_NAME_TRIES: usize = 100;

/// Makes hidden names unique within the process, whatever the number of lakes.
static NEXT_TEMP: AtomicU64 = AtomicU64::new(0);

/// A lake in a folder of this machine.
#[derive(Clone, Debug)]
pub struct DirLake {
    root: Arc<Root>,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    /// Folders whose entry in their parent is on disk.
    durable: Mutex<HashSet<PathBuf>>,
}

/// A file under a hidden name; removed on drop unless it got its real name. Locked while we write it, so that whoever
/// opens the lake meanwhile does not take it for a leftover.
struct TempFile {
    path: PathBuf,
    file: File,
    renamed: bool,
}

impl DirLake {
    /// Opens the lake in `path`, a folder; it is created when absent. Unfinished files of processes that died are
    /// removed, but nothing else is touched. Blocks on the file system.
    pub fn open(path: &Path) -> Result<Self, LakeError> {
        fs::create_dir_all(path).map_err(|e| failure("creating the lake's folder", path, &e))?;
        let path = path.canonicalize().map_err(|e| failure("opening the lake's folder", path, &e))?;
        let root = Root { path, durable: Mutex::default() };
        // Finds out now, rather than at the first cut, whether the folder takes files.
        drop(TempFile::create(&root.path)?);
        if let Some(parent) = root.path.parent() {
            // The entry of a new folder in a parent that we may not read is the operator's to keep.
            if let Err(error) = sync_folder(parent) {
                tracing::debug!(%error, "the folder above the lake could not be forced to disk");
            }
        }
        root.remove_leftovers();
        Ok(Self { root: Arc::new(root) })
    }

    async fn blocking<T, F>(&self, work: F) -> Result<T, LakeError>
    where
        T: Send + 'static,
        F: FnOnce(&Root) -> Result<T, LakeError> + Send + 'static,
    {
        let root = self.root.clone();
        let done = tokio::task::spawn_blocking(move || work(&root)).await;
        done.unwrap_or_else(|e| {
            Err(LakeError::Unavailable(format!("the work on the lake's folder was cut short: {e}")))
        })
    }
}

#[async_trait]
impl Lake for DirLake {
    async fn put(&self, name: &str, object: Bytes) -> Result<(), LakeError> {
        names::check(name)?;
        let name = name.to_owned();
        self.blocking(move |root| root.put(&name, &object)).await
    }

    async fn delete(&self, name: &str) -> Result<(), LakeError> {
        names::check(name)?;
        let name = name.to_owned();
        self.blocking(move |root| root.delete(&name)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, LakeError> {
        names::split_prefix(prefix)?;
        let prefix = prefix.to_owned();
        self.blocking(move |root| root.list(&prefix)).await
    }
}

impl Root {
    fn put(&self, name: &str, object: &[u8]) -> Result<(), LakeError> {
        let target = self.path.join(name);
        let folder = self.make_folder(name)?;
        let mut temp = TempFile::create(&folder)?;
        let written = temp.file.write_all(object).and_then(|()| temp.file.sync_all());
        written.map_err(|e| failure("writing", &target, &e))?;
        fs::rename(&temp.path, &target).map_err(|e| failure("writing", &target, &e))?;
        temp.renamed = true;
        sync_folder(&folder).map_err(|e| failure("forcing to disk the folder of", &target, &e))
    }

    /// Creates the folders above the object `name` and sees to it that a crash does not take them back.
    fn make_folder(&self, name: &str) -> Result<PathBuf, LakeError> {
        let mut folder = self.path.clone();
        let Some((above, _)) = name.rsplit_once('/') else { return Ok(folder) };
        for part in above.split('/') {
            let parent = folder.clone();
            folder.push(part);
            let created = match fs::create_dir(&folder) {
                Ok(()) => true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                Err(error) => return Err(failure("creating", &folder, &error)),
            };
            // One that was already there may have been made by someone who died before it was on disk.
            if created || !self.durable().contains(&folder) {
                sync_folder(&parent).map_err(|e| failure("forcing to disk", &parent, &e))?;
                let mut durable = self.durable();
                if durable.len() >= FOLDERS_KNOWN_MAX {
                    durable.clear();
                }
                durable.insert(folder.clone());
            }
        }
        Ok(folder)
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delete(&self, name: &str) -> Result<(), LakeError> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Ok(()) => {}
            // A folder is no object, and neither is what would be below an object.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory) =>
            {
                return Ok(());
            }
            Err(error) => return Err(failure("removing", &path, &error)),
        }
        let folder = path.parent().unwrap_or(&self.path);
        sync_folder(folder).map_err(|e| failure("forcing to disk", folder, &e))
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, LakeError> {
        let (folder, _) = names::split_prefix(prefix)?;
        let mut found = Vec::new();
        let mut full = false;
        let walked = self.walk(folder, usize::MAX, &mut |name, entry| {
            let hidden = entry.file_name().as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes());
            if hidden || !name.starts_with(prefix) {
                return Ok(true);
            }
            match entry.metadata() {
                Ok(metadata) => found.push((name, metadata.len())),
                Err(error) if error.kind() == ErrorKind::NotFound => {} // deleted meanwhile
                Err(error) => return Err(error),
            }
            full = found.len() > LIST_NAMES_MAX;
            Ok(!full)
        });
        walked.map_err(|e| failure("listing", &self.path.join(folder), &e))?;
        if full {
            let text = format!("more than {LIST_NAMES_MAX} objects begin with {prefix:?}; list a narrower prefix");
            return Err(LakeError::Refused(text));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Best effort: a leftover is hidden from listings and queries, so what stays does no harm.
    fn remove_leftovers(&self) {
        let mut removed = 0u64;
        let walked = self.walk("", LEFTOVER_ENTRIES_MAX, &mut |_, entry| {
            if entry.file_name().as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes()) && is_abandoned(&entry.path()) {
                match fs::remove_file(entry.path()) {
                    Ok(()) => removed += 1,
                    Err(error) => tracing::warn!(%error, "an unfinished lake file could not be removed"),
                }
            }
            Ok(true)
        });
        if removed > 0 {
            tracing::info!(files = removed, "removed unfinished lake files of an earlier run");
        }
        if let Err(error) = walked {
            tracing::warn!(%error, "the search for unfinished lake files was cut short");
        }
    }

    /// Visits the files below `folder` until `visit` says false or `entries_max` entries were seen. Symbolic links are
    /// not followed: they could lead in circles or out of the lake.
    fn walk(
        &self,
        folder: &str,
        entries_max: usize,
        visit: &mut dyn FnMut(String, &fs::DirEntry) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut open = vec![(folder.to_owned(), 0)];
        let mut seen = 0;
        while let Some((folder, depth)) = open.pop() {
            let entries = match fs::read_dir(self.path.join(&folder)) {
                Ok(entries) => entries,
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                seen += 1;
                if seen > entries_max {
                    return Ok(());
                }
                let kind = entry.file_type()?;
                // Names that are not UTF-8 are not ours.
                let Ok(name) = entry.file_name().into_string() else { continue };
                let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                if kind.is_dir() && depth < DEPTH_MAX {
                    open.push((name, depth + 1));
                } else if kind.is_file() && !visit(name, &entry)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Whether nobody writes the hidden file any more: a writer holds its lock, and the lock ends with its process.
fn is_abandoned(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

impl TempFile {
    fn create(folder: &Path) -> Result<Self, LakeError> {
        for _ in 0..TEMP_NAME_TRIES {
            let n = NEXT_TEMP.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{TEMP_PREFIX}{}-{n}", process::id()));
            match File::create_new(&path) {
                Ok(file) => {
                    // Where locks are not supported, or someone is just looking whether this is a leftover, the worst
                    // is that the file is taken away: then the rename fails and the put is tried again.
                    if let Err(TryLockError::Error(error)) = file.try_lock() {
                        tracing::debug!(%error, "the file system has no locks");
                    }
                    return Ok(Self { path, file, renamed: false });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failure("creating a file in", folder, &error)),
            }
        }
        Err(LakeError::Unavailable(format!("no free hidden name in {}", folder.display())))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.renamed {
            return;
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(%error, "an unfinished lake file could not be removed; the next start will");
            }
            _ => {}
        }
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn failure(doing: &str, path: &Path, error: &io::Error) -> LakeError {
    let text = format!("{doing} {}: {error}", path.display());
    match error.kind() {
        ErrorKind::PermissionDenied => {
            LakeError::Refused(format!("{text}; give the user that runs keyloom the right to write there"))
        }
        ErrorKind::ReadOnlyFilesystem => {
            LakeError::Refused(format!("{text}; mount it writable or choose another path"))
        }
        ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::AlreadyExists => {
            LakeError::Refused(format!("{text}; something else is in the way there: move it, or choose another path"))
        }
        ErrorKind::InvalidFilename => LakeError::Refused(format!("{text}; the file system does not take this name")),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => LakeError::Unavailable(format!("{text}; free some space")),
        _ => LakeError::Unavailable(text),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NAME: &str = "raw_events/year=2026/month=11/day=20/hour=12/part-0000.parquet";

    fn hidden(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(hidden(&path));
            } else if path.file_name().unwrap().to_str().unwrap().starts_with(TEMP_PREFIX) {
                found.push(path);
            }
        }
        found
    }

    #[tokio::test]
    async fn objects_are_put_listed_and_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let lake = DirLake::open(&folder.path().join("new/lake")).unwrap();
        lake.put(NAME, Bytes::from_static(b"first")).await.unwrap();
        lake.put(NAME, Bytes::from_static(b"second!")).await.unwrap();
        lake.put("other/x", Bytes::new()).await.unwrap();
        lake.put("top", Bytes::from_static(b"1")).await.unwrap();
        let listed = |prefix: &'static str| {
            let lake = lake.clone();
            async move { lake.list(prefix).await.unwrap() }
        };
        let object = (NAME.to_owned(), 7);
        assert_eq!(listed("").await, [("other/x".to_owned(), 0), object.clone(), ("top".to_owned(), 1)]);
        for prefix in ["raw_", "raw_events/", "raw_events/year=2026/mon", NAME] {
            assert_eq!(listed(prefix).await, std::slice::from_ref(&object), "{prefix}");
        }
        for prefix in ["raw_events/year=2025/", "absent/", "top/", "x"] {
            assert_eq!(listed(prefix).await, [], "{prefix}");
        }
        assert_eq!(fs::read(folder.path().join("new/lake").join(NAME)).unwrap(), b"second!");
        assert_eq!(hidden(folder.path()), Vec::<PathBuf>::new());
        lake.delete(NAME).await.unwrap();
        lake.delete(NAME).await.unwrap();
        lake.delete("absent/too").await.unwrap();
        lake.delete("top/below-a-file").await.unwrap();
        assert_eq!(listed("raw_").await, []);
    }

    #[tokio::test]
    async fn leftovers_are_removed_at_open_but_not_what_is_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("t/year=2026");
        fs::create_dir_all(&deep).unwrap();
        let leftover = deep.join(format!("{TEMP_PREFIX}1-0"));
        fs::write(&leftover, b"half a file").unwrap();
        let foreign = deep.join(".other-tmp-1");
        fs::write(&foreign, b"not ours").unwrap();
        let busy = TempFile::create(&deep).unwrap();
        let lake = DirLake::open(folder.path()).unwrap();
        assert!(!leftover.exists());
        assert!(foreign.exists() && busy.path.exists());
        assert_eq!(lake.list("t/year=2026/").await.unwrap(), [("t/year=2026/.other-tmp-1".to_owned(), 8)]);
        drop(busy);
        assert_eq!(hidden(folder.path()), Vec::<PathBuf>::new());
    }

    #[tokio::test]
    async fn a_failed_put_leaves_nothing_and_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let lake = DirLake::open(folder.path()).unwrap();
        lake.put("a/b", Bytes::from_static(b"x")).await.unwrap();
        for name in ["a", "a/b/c"] {
            let refused = lake.put(name, Bytes::from_static(b"y")).await;
            assert!(matches!(&refused, Err(LakeError::Refused(why)) if why.contains("in the way")), "{refused:?}");
        }
        for name in ["../x", "/x", "a//x", "", &"n".repeat(300)] {
            assert!(matches!(lake.put(name, Bytes::new()).await, Err(LakeError::Refused(_))), "{name}");
            assert!(matches!(lake.delete(name).await, Err(LakeError::Refused(_))), "{name}");
        }
        assert!(matches!(lake.list("../").await, Err(LakeError::Refused(_))));
        assert_eq!(hidden(folder.path()), Vec::<PathBuf>::new());
        assert_eq!(lake.list("").await.unwrap(), [("a/b".to_owned(), 1)]);
    }

    #[tokio::test]
    async fn a_folder_that_was_taken_away_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let lake = DirLake::open(folder.path()).unwrap();
        lake.put("t/h/a", Bytes::from_static(b"1")).await.unwrap();
        fs::remove_dir_all(folder.path().join("t")).unwrap();
        lake.put("t/h/a", Bytes::from_static(b"22")).await.unwrap();
        assert_eq!(lake.list("").await.unwrap(), [("t/h/a".to_owned(), 2)]);
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"").unwrap();
        assert!(matches!(DirLake::open(&path), Err(LakeError::Refused(_))));
    }
}
