//! `freehold hash-password`: a password in, the line of the users file out.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::{Command, ExitCode, Stdio};

use zeroize::Zeroizing;

use crate::admin::users::user_line;

pub(super) fn print_line(name: &str) -> ExitCode {
    match read_password() {
        Ok(password) if password.is_empty() => {
            eprintln!("freehold: the password is empty");
            ExitCode::FAILURE
        }
        Ok(password) => {
            println!("{}", user_line(name, &password));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("freehold: cannot read the password: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One line of standard input; on a terminal it is asked for, and not shown.
fn read_password() -> io::Result<Zeroizing<String>> {
    let _silence = io::stdin().is_terminal().then(Silence::begin);
    let mut line = Zeroizing::new(String::new());
    io::stdin().lock().read_line(&mut line)?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// The terminal does not show what is typed. Over with the drop.
///
/// # Why `stty`
/// The terminal's flags need `unsafe` or a crate; the program is on every system that has a terminal.
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
