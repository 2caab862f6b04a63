//! A server that an attacker has taken: it passes everything on to a real PostgreSQL server until it is told
//! to do something else.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is said to Freehold instead of what the real server says. Ends when it returns.
pub(crate) type Script = Arc<dyn Fn(&mut TcpStream) + Send + Sync>;

/// Whose connections are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Clients,
    /// The sessions of Freehold's own.
    Platform,
}

#[derive(Clone, Default)]
enum Act {
    #[default]
    Honest,
    /// From the startup packet on.
    Instead(Whose, Script),
    /// As soon as a login is over and no message is under way; connections that are open, too.
    Turn(Whose, Script),
}

pub(crate) struct Impostor {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    act: Mutex<Act>,
    real: u16,
    stop: AtomicBool,
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Impostor {
    /// In front of the server at this port.
    pub(crate) fn before(real: u16) -> Impostor {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared { act: Mutex::default(), real, stop: AtomicBool::new(false) });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for visitor in listener.incoming() {
                if accepting.stop.load(Ordering::Relaxed) {
                    return;
                }
                let (visitor, shared) = (visitor.unwrap(), Arc::clone(&accepting));
                std::thread::spawn(move || shared.serve(visitor));
            }
        });
        Impostor { port, shared }
    }

    pub(crate) fn be_honest(&self) {
        *self.shared.act.lock().unwrap() = Act::Honest;
    }

    pub(crate) fn instead(&self, whose: Whose, script: impl Fn(&mut TcpStream) + Send + Sync + 'static) {
        *self.shared.act.lock().unwrap() = Act::Instead(whose, Arc::new(script));
    }

    pub(crate) fn turn(&self, whose: Whose, script: impl Fn(&mut TcpStream) + Send + Sync + 'static) {
        *self.shared.act.lock().unwrap() = Act::Turn(whose, Arc::new(script));
    }
}

impl Shared {
    fn act(&self) -> Act {
        self.act.lock().unwrap().clone()
    }

    fn serve(&self, mut visitor: TcpStream) {
        let Some(startup) = startup_packet(&mut visitor) else { return };
        let mut windows = startup.windows(26);
        let whose = match windows.any(|part| part.starts_with(b"application_name\0freehold")) {
            true => Whose::Platform,
            false => Whose::Clients,
        };
        if let Act::Instead(concerned, script) = self.act()
            && concerned == whose
        {
            return script(&mut visitor);
        }
        let mut real = TcpStream::connect(("127.0.0.1", self.real)).unwrap();
        real.write_all(&startup).unwrap();
        let (mut from, mut to) = (visitor.try_clone().unwrap(), real.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        self.pass_on(whose, &mut real, &mut visitor);
        let _ = visitor.shutdown(Shutdown::Both);
        let _ = real.shutdown(Shutdown::Both);
    }

    /// What the real server says, message by message, until it is time to turn.
    fn pass_on(&self, whose: Whose, real: &mut TcpStream, visitor: &mut TcpStream) {
        real.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let (mut unsent, mut chunk, mut logged_in) = (Vec::new(), vec![0; 65_536], false);
        loop {
            while let Some(length) = whole(&unsent) {
                let message: Vec<u8> = unsent.drain(..length).collect();
                logged_in |= message[0] == b'Z';
                if visitor.write_all(&message).is_err() {
                    return;
                }
            }
            if let Act::Turn(concerned, script) = self.act()
                && (concerned == whose && logged_in && unsent.is_empty())
            {
                return script(visitor);
            }
            match real.read(&mut chunk) {
                Ok(0) => return,
                Ok(read) => unsent.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

fn whole(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(bytes.get(1..5)?.try_into().unwrap()) as usize + 1;
    (bytes.len() >= length).then_some(length)
}

/// The packet behind a request for TLS, which is refused.
fn startup_packet(visitor: &mut TcpStream) -> Option<Vec<u8>> {
    loop {
        let mut packet = vec![0; 4];
        visitor.read_exact(&mut packet).ok()?;
        let length = u32::from_be_bytes(packet[..4].try_into().unwrap()) as usize;
        packet.resize(length.clamp(8, 10_000), 0);
        visitor.read_exact(&mut packet[4..]).ok()?;
        if packet[4..8] != 80_877_103_u32.to_be_bytes() {
            return Some(packet);
        }
        visitor.write_all(b"N").ok()?;
    }
}

/// A message of a server.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// An Authentication message.
pub(crate) fn authentication(code: u32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&code.to_be_bytes()[..], rest].concat())
}

/// What was sent, up to the end of one message.
pub(crate) fn heard(visitor: &mut TcpStream) -> Vec<u8> {
    let mut header = [0; 5];
    if visitor.read_exact(&mut header).is_err() {
        return Vec::new();
    }
    let mut body = vec![0; u32::from_be_bytes(header[1..5].try_into().unwrap()) as usize - 4];
    let _ = visitor.read_exact(&mut body);
    body
}

/// Says it for ever, or until nobody listens.
pub(crate) fn flood(visitor: &mut TcpStream, mut next: impl FnMut(u64) -> Vec<u8>) {
    for number in 0.. {
        if visitor.write_all(&next(number)).is_err() {
            return;
        }
    }
}

/// Keeps the connection until the other side closes it.
pub(crate) fn wait(visitor: &mut TcpStream) {
    let _ = std::io::copy(visitor, &mut std::io::sink());
}
