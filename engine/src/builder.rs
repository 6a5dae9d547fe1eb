//! `Engine`: how a binary registers its handlers and becomes a `keyloom`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::Arc,
};

use keyloom_actors::handler::{Features, Handler, Registry, session_features::SessionFeatures};

use crate::{cli, lake, topology::HandlerCatalog};

/// A `keyloom` with your handlers in it:
///
/// ```no_run
/// # use keyloom_actors::handler::session_features::SessionFeatures as MyHandler;
/// fn main() -> std::process::ExitCode {
///     keyloom_engine::Engine::new().handler::<MyHandler>("my-handler").main()
/// }
/// ```
#[derive(Clone)]
pub struct Engine {
    registry: Registry,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// An engine that knows the handlers Keyloom ships: `session-features`.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.add::<SessionFeatures>("session-features");
        Self { registry }
    }

    /// Adds a handler; topologies name it in `[sessions] handler`.
    #[must_use]
    pub fn handler<H: Handler>(mut self, name: &str) -> Self {
        self.registry.add::<H>(name);
        self
    }

    /// Does what the command line says.
    pub fn main(self) -> ExitCode {
        cli::main(&self)
    }

    /// The handlers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

impl HandlerCatalog for Engine {
    fn names(&self) -> Vec<String> {
        self.registry.names().map(str::to_owned).collect()
    }

    fn check(&self, handler: &str, config: &serde_json::Value) -> Result<(), String> {
        self.registry.build(handler, config.clone(), Arc::default()).map(drop).map_err(|e| e.0)?;
        let tables = self.registry.tables(handler).unwrap_or_default();
        if let Some((_, twice)) = tables.iter().enumerate().find(|(i, t)| tables[..*i].iter().any(|b| b.name == t.name))
        {
            return Err(format!("it lists table {:?} twice; one row type makes one table", twice.name));
        }
        tables.iter().try_for_each(|table| {
            let columns = lake::EmittedRows::new(table, 0, 1).map(drop);
            columns.map_err(|e| format!("the rows that it emits to table {:?} are not possible: {e}", table.name))
        })
    }

    fn features(&self, handler: &str, config: &serde_json::Value) -> Vec<String> {
        let Ok(factory) = self.registry.build(handler, config.clone(), Arc::default()) else { return Vec::new() };
        let mut json = b"{".to_vec();
        let say = AssertUnwindSafe(|| factory.create().features(&mut Features::new(&mut json)));
        if catch_unwind(say).is_err() {
            return Vec::new(); // the engine will say so when it matters
        }
        json.push(b'}');
        let said: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&json).unwrap_or_default();
        said.into_iter().map(|(name, _)| name).collect()
    }

    fn tables(&self, handler: &str) -> Option<Vec<String>> {
        let tables = self.registry.tables(handler)?;
        Some(tables.into_iter().map(|table| table.name.to_owned()).collect())
    }
}
