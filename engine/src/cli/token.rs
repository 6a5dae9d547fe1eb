//! `keyloom token new`, and where other commands take the token from that lets them in.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::Context;

use super::WrongUse;
use crate::{
    access::{Role, TokenHash, token},
    engine_client::Way,
    topology::Topology,
};

/// The environment variable that holds a token.
const TOKEN_VARIABLE: &str = "KEYLOOM_TOKEN";
/// Longest file that is read for a token, in bytes.
const TOKEN_FILE_BYTES_MAX: u64 = 4 << 10;

/// The arguments of `keyloom token`.
#[derive(clap::Args)]
pub struct TokenArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a token, and the section of a topology that lets in who has it
    New {
        /// What it is for: ingest, features, metrics, admin-read, admin-write; more by repeating
        #[arg(long = "role", default_value = "ingest")]
        roles: Vec<String>,
        /// Name of the section
        #[arg(long, default_value = "NAME")]
        name: String,
    },
}

/// See the module.
pub fn token(arguments: TokenArguments) -> anyhow::Result<()> {
    let Command::New { roles, name } = arguments.command;
    if let Some(unknown) = roles.iter().find(|role| Role::of_name(role).is_none()) {
        let known = Role::NAMES.join(", ");
        return Err(WrongUse(format!("there is no role {unknown}; there are {known}")).into());
    }
    let secret = token::generate().map_err(|error| anyhow::anyhow!("the system has no random numbers: {error}"))?;
    let hash = TokenHash::of(&secret).context("a token is short")?.to_hex();
    let roles = roles.iter().map(|role| format!("\"{role}\"")).collect::<Vec<_>>().join(", ");
    let mut text = String::new();
    writeln!(text, "{secret}\n")?;
    writeln!(text, "# The token above is shown once; whoever has it may come in. The topology knows its hash only:")?;
    let is_bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let name = if is_bare { name } else { serde_json::to_string(&name)? }; // as TOML quotes it, too
    writeln!(text, "[access.{name}]\ntoken_sha256 = \"{hash}\"\nroles = [{roles}]")?;
    print!("{text}");
    Ok(())
}

/// The token by which a command comes in where an engine asks for one.
#[derive(clap::Args, Clone, Default)]
pub struct TokenFile {
    /// A file with the token that lets this command in; else the environment variable KEYLOOM_TOKEN
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
}

impl TokenFile {
    /// The token, if there is one.
    pub fn token(&self) -> anyhow::Result<Option<String>> {
        let Some(path) = &self.token_file else {
            return Ok(std::env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty()));
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).with_context(|| format!("--token-file {}", path.display()))?;
        std::io::Read::read_to_string(&mut std::io::Read::take(file, TOKEN_FILE_BYTES_MAX), &mut text)
            .with_context(|| format!("--token-file {}", path.display()))?;
        // What `keyloom token new` printed may be in there as a whole.
        let token = text.lines().map(str::trim).find(|line| !line.is_empty());
        Ok(Some(token.with_context(|| format!("--token-file {} is empty", path.display()))?.to_owned()))
    }

    /// The way to the engine of `topology`.
    pub fn way(&self, topology: &Topology) -> anyhow::Result<Way> {
        Way::new(self.token()?.as_deref(), topology.http.tls.as_ref().map(|tls| tls.cert.as_path()))
    }
}
