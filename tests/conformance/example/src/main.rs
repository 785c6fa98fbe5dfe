//! The whole test program of a backend.

mod backend;

fn main() -> std::process::ExitCode {
    hadal_conformance::main(hadal_conformance::Suite::new(Box::new(backend::ExampleBackend)))
}
