//! The `freehold` binary: everything is in the library, see [`freehold::cli`].

/// What clients leave behind goes back to the system within seconds; with the C library's it stays with the
/// process.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    freehold::cli::main()
}
