//! The `keyloom` binary: the engine with the handlers it ships.

fn main() -> std::process::ExitCode {
    keyloom_engine::Engine::new().main()
}
