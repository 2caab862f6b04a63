//! The `freehold` binary: everything is in the library, see [`freehold::cli`].

fn main() -> std::process::ExitCode {
    freehold::cli::main()
}
