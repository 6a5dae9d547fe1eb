//! Secrets of a topology: given by reference, read once at start, never printed.
//!
//! Not a vault: the value stays in memory as long as its connection may need it again.

use std::{ffi::OsString, fmt, fs::File, io::Read as _, path::Path};

use super::names::Wrong;

/// Largest secret file; a credentials file has about 1 KiB.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// A secret. Printing it gives `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret from its value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, to be handed to a client and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The secret in environment variable `name`.
pub(super) fn from_env(name: &str, variables: &dyn Fn(&str) -> Option<OsString>) -> Result<Secret, Wrong> {
    let shown = super::problems::quoted(name);
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(Wrong::new(
            format!("{shown} cannot be the name of an environment variable"),
            "name the variable: { env = \"NAME\" }",
        ));
    }
    let value = variables(name).ok_or_else(|| {
        Wrong::new(
            format!("the environment variable {shown} is not set"),
            "set it where keyloom is started, or correct the name",
        )
    })?;
    let value = value.into_string().map_err(|_| {
        Wrong::new(format!("the environment variable {shown} is not valid UTF-8"), "set it to the secret as plain text")
    })?;
    filled(value, &format!("the environment variable {shown}"))
}

/// The secret in the file at `path`.
pub(super) fn from_file(path: &Path) -> Result<Secret, Wrong> {
    let shown = super::problems::printable(&path.display().to_string());
    let unreadable = |error: std::io::Error| {
        let help = "correct the path (relative to the topology file), or let the user who runs keyloom read it";
        Wrong::new(format!("the secret file {shown} cannot be read: {error}"), help)
    };
    private(path)?;
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        let what = format!("the secret file {shown} is larger than {SECRET_BYTES_MAX} bytes");
        return Err(Wrong::new(what, "name the file that holds the secret and nothing else"));
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        Wrong::new(format!("the secret file {shown} is not valid UTF-8"), "store the secret as plain text")
    })?;
    filled(text, &format!("the secret file {shown}"))
}

/// Whether `path` is a file that not everyone on the machine may read.
pub(super) fn private(path: &Path) -> Result<(), Wrong> {
    let shown = super::problems::printable(&path.display().to_string());
    let metadata = readable(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if metadata.permissions().mode() & 0o004 != 0 {
            let help = format!("run: chmod o-r {shown} (in Kubernetes set defaultMode: 0440 on the secret's volume)");
            return Err(Wrong::new(format!("everyone on this machine may read {shown}"), help));
        }
    }
    #[cfg(not(unix))]
    drop(metadata);
    Ok(())
}

/// What the system says about the file at `path`; refuses what is no file, for reading from it could wait for ever.
pub(super) fn readable(path: &Path) -> Result<std::fs::Metadata, Wrong> {
    let shown = super::problems::printable(&path.display().to_string());
    let help = "correct the path; it is relative to the topology file";
    let metadata = std::fs::metadata(path)
        .map_err(|error| Wrong::new(format!("the file {shown} cannot be read: {error}"), help))?;
    if metadata.is_file() { Ok(metadata) } else { Err(Wrong::new(format!("{shown} is not a file"), help)) }
}

/// Editors and `echo` end files with a newline that is no part of the secret.
fn filled(value: String, whose: &str) -> Result<Secret, Wrong> {
    let value = value.trim_end_matches(['\r', '\n']);
    if value.trim().is_empty() {
        return Err(Wrong::new(format!("{whose} is empty"), "put the secret there"));
    }
    Ok(Secret::new(value))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should fail")]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn variables_are_read_or_explained() {
        let variables = |name: &str| match name {
            "GOOD" => Some("hunter2\n".into()),
            "EMPTY" => Some(" ".into()),
            _ => None,
        };
        assert_eq!(from_env("GOOD", &variables), Ok(Secret::new("hunter2")));
        for (name, what) in
            [("EMPTY", "is empty"), ("NONE", "is not set"), ("A=B", "cannot be the name"), ("", "cannot be")]
        {
            assert!(from_env(name, &variables).unwrap_err().what.contains(what), "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn files_must_be_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(from_file(&path).unwrap_err().what.contains("cannot be read"));
        assert!(from_file(folder.path()).unwrap_err().what.contains("is not a file"));
        std::fs::write(&path, "hunter2\n").unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let wrong = from_file(&path).unwrap_err();
        assert!(wrong.what.contains("everyone") && wrong.help.contains("chmod o-r"));
        mode(0o640);
        assert_eq!(from_file(&path), Ok(Secret::new("hunter2")));
        std::fs::write(&path, vec![b'x'; SECRET_BYTES_MAX as usize + 1]).unwrap();
        assert!(from_file(&path).unwrap_err().what.contains("larger than"));
    }
}
