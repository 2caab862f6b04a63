//! `freehold serve`: reads a configuration file, runs, returns an exit code.

use std::path::Path;
use std::process::ExitCode;

use super::{ProcessInputs, Serve, ServeError};
use crate::config::{Config, LogFormat, LogLevel};
use crate::error::causes;
use crate::frontend::listener::Listener;
use crate::telemetry::log::{self, Format};

/// Threads for the control loop, the admin port and the store. Clients have threads of their own.
const CONTROL_THREADS: usize = 2;

/// Runs until it is asked to end. Prints mistakes to standard error.
///
/// When clients and administrators are served, one line goes to standard output:
/// `ready proxy=127.0.0.1:6432 admin=127.0.0.1:6433`.
pub fn serve(file: &Path) -> ExitCode {
    // Before any thread is started: it removes environment variables.
    let listeners = match Listener::from_service_manager() {
        Ok(listeners) => listeners,
        Err(error) => {
            eprintln!("freehold: what the service manager handed over cannot be listened on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::FAILURE;
        }
    };
    let format = match config.log.format {
        LogFormat::Text => Format::Text,
        LogFormat::Json => Format::Json,
    };
    let log = log::install(LogLevel::as_str(config.log.level), format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("freehold: no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(
        config,
        ProcessInputs { file: Some(file.to_owned()), log, listeners, ..ProcessInputs::default() },
    )) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config, given: ProcessInputs) -> Result<(), ServeError> {
    let serve = Serve::start_from(config, given).await?;
    println!("ready proxy={} admin={}", places(&serve), serve.admin_addr);
    serve.run().await;
    Ok(())
}

/// The addresses for applications, separated by commas.
fn places(serve: &Serve) -> String {
    let address = (serve.proxy_addr.port() != 0).then(|| serve.proxy_addr.to_string());
    let sockets = serve.socket_paths.iter().map(|path| path.display().to_string());
    address.into_iter().chain(sockets).collect::<Vec<_>>().join(",")
}

fn report(error: &ServeError) {
    eprintln!("freehold: {error}");
    for cause in causes(error) {
        eprintln!("  because: {cause}");
    }
}
