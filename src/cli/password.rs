//! `freehold hash-password`: reads a password, prints the line for the users file.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::{Command, ExitCode, Stdio};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::admin::users::user_line;

/// As a shell reports a process that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

pub(super) async fn print_line(name: &str) -> ExitCode {
    match read_password().await {
        Ok(password) if password.is_empty() => {
            eprintln!("freehold: the password is empty");
            ExitCode::FAILURE
        }
        Ok(password) => {
            println!("{}", user_line(name, &password));
            ExitCode::SUCCESS
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("freehold: cannot read the password: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One line of standard input; on a terminal with a prompt and without echo. A signal that would end the
/// process restores the echo first: [`io::ErrorKind::Interrupted`].
async fn read_password() -> io::Result<Zeroizing<String>> {
    if !io::stdin().is_terminal() {
        return read_line();
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let _silence = Silence::begin();
    let (tell, told) = oneshot::channel();
    // A thread that is never joined: a blocking read ends only with the process.
    std::thread::spawn(move || tell.send(read_line()));
    tokio::select! {
        line = told => line.unwrap_or_else(|_| Err(io::ErrorKind::UnexpectedEof.into())),
        _ = interrupt.recv() => Err(io::ErrorKind::Interrupted.into()),
        _ = terminate.recv() => Err(io::ErrorKind::Interrupted.into()),
    }
}

fn read_line() -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    io::stdin().lock().read_line(&mut line)?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Switches the terminal's echo off until dropped.
///
/// # Why `stty`
/// Changing the terminal's flags needs `unsafe` or a crate; the program is on every system that has a
/// terminal.
struct Silence;

impl Silence {
    fn begin() -> Silence {
        eprint!("Password: ");
        let _ = io::stderr().flush();
        stty("-echo");
        Silence
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        stty("echo");
        eprintln!();
    }
}

fn stty(argument: &str) {
    let _ = Command::new("stty").arg(argument).stdin(Stdio::inherit()).status();
}
