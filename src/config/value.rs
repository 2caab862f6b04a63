//! The types of settings: reads each from TOML and writes it back.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::{ConfigError, closest};
use crate::model::{ByteSize, ListenOn, Network, ProxyId};

/// A type that a setting can have.
pub(super) trait Value: Sized {
    /// For the reference file: `duration`, `size`.
    const KIND: &'static str;
    /// The value, or the rest of a sentence: `needs a duration such as "500ms"`.
    fn read(value: &DeValue<'_>) -> Result<Self, String>;
    /// The value, or every mistake at its position; `path` is the setting's.
    fn read_placed(path: &str, value: &Spanned<DeValue<'_>>) -> Result<Self, Vec<ConfigError>> {
        let wrong = |message| vec![ConfigError::new(Some(value.span()), format!("{path} {message}"))];
        Self::read(value.get_ref()).map_err(wrong)
    }
    /// As TOML; `None` if it is not set.
    fn write(&self) -> Option<String>;
}

fn text<'a>(value: &'a DeValue<'_>, wanted: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("needs {wanted}, not {}", article(value.type_str())))
}

fn article(kind: &str) -> String {
    match kind.starts_with(['a', 'e', 'i', 'o', 'u']) {
        true => format!("an {kind}"),
        false => format!("a {kind}"),
    }
}

/// A TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

impl Value for bool {
    const KIND: &'static str = "true or false";
    fn read(value: &DeValue<'_>) -> Result<bool, String> {
        value.as_bool().ok_or_else(|| "needs true or false".to_owned())
    }
    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for u32 {
    const KIND: &'static str = "number";
    fn read(value: &DeValue<'_>) -> Result<u32, String> {
        let Some(integer) = value.as_integer() else {
            return Err(format!("needs a whole number, not {}", article(value.type_str())));
        };
        u32::from_str_radix(&integer.as_str().replace('_', ""), integer.radix())
            .map_err(|_| format!("needs a whole number between 0 and {}", u32::MAX))
    }
    fn write(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Value for Duration {
    const KIND: &'static str = "duration";
    fn read(value: &DeValue<'_>) -> Result<Duration, String> {
        if let Some(integer) = value.as_integer() {
            let number = integer.as_str();
            return Err(format!("needs a unit: \"{number}ms\" or \"{number}s\""));
        }
        let text = text(value, "a duration such as \"500ms\"")?;
        humantime::parse_duration(text)
            .map_err(|_| "needs a duration such as \"500ms\", \"30s\" or \"5m\"".to_owned())
    }
    fn write(&self) -> Option<String> {
        Some(quoted(&humantime::format_duration(*self).to_string()))
    }
}

impl Value for ByteSize {
    const KIND: &'static str = "size";
    fn read(value: &DeValue<'_>) -> Result<ByteSize, String> {
        if let Some(integer) = value.as_integer() {
            return Err(format!("needs a unit: \"{}MB\"", integer.as_str()));
        }
        let text = text(value, "a size such as \"64MB\"")?;
        ByteSize::parse(text)
            .ok_or_else(|| "needs a size such as \"64MB\" (units: B, kB, MB, GB, TB)".to_owned())
    }
    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

impl Value for SocketAddr {
    const KIND: &'static str = "address and port";
    fn read(value: &DeValue<'_>) -> Result<SocketAddr, String> {
        let wanted = "an IP address and a port such as \"0.0.0.0:6432\"";
        let text = text(value, wanted)?;
        text.parse().map_err(|_| match text.strip_prefix("localhost:") {
            Some(port) => format!("needs an IP address: \"127.0.0.1:{port}\""),
            None => format!("needs {wanted}"),
        })
    }
    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

/// One address to listen on, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen(pub Vec<ListenOn>);

impl Listen {
    /// The TCP addresses, in order.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().filter_map(ListenOn::tcp)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<String> = self.0.iter().map(ListenOn::to_string).collect();
        f.write_str(&places.join(", "))
    }
}

impl Value for Listen {
    const KIND: &'static str = "address and port, or absolute directory, or list of them";
    fn read(value: &DeValue<'_>) -> Result<Listen, String> {
        let place = |value: &DeValue<'_>| {
            let wanted = "an IP address and a port such as \"0.0.0.0:6432\", or an absolute directory";
            let text = text(value, wanted)?;
            ListenOn::parse(text).ok_or_else(|| match text.strip_prefix("localhost:") {
                Some(port) => format!("needs an IP address: \"127.0.0.1:{port}\""),
                None => format!("needs {wanted}"),
            })
        };
        match value.as_array() {
            None => place(value).map(|place| Listen(vec![place])),
            Some(places) if places.is_empty() => Err("needs at least one place to listen on".to_owned()),
            Some(places) => {
                places.iter().map(|item| place(item.get_ref())).collect::<Result<_, _>>().map(Listen)
            }
        }
    }
    fn write(&self) -> Option<String> {
        let places: Vec<String> = self.0.iter().map(|place| quoted(&place.to_string())).collect();
        match &places[..] {
            [place] => Some(place.clone()),
            places => Some(format!("[{}]", places.join(", "))),
        }
    }
}

/// Ranges of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Networks(pub Vec<Network>);

impl Value for Networks {
    const KIND: &'static str = "list of networks";
    fn read(value: &DeValue<'_>) -> Result<Networks, String> {
        let wanted = "a list of networks such as [\"10.0.0.0/8\", \"fd00::1\"]";
        let network = |value: &DeValue<'_>| {
            let text = text(value, wanted)?;
            Network::parse(text).ok_or_else(|| format!("needs {wanted}; \"{text}\" is no network"))
        };
        let items =
            value.as_array().ok_or_else(|| format!("needs {wanted}, not {}", article(value.type_str())))?;
        items.iter().map(|item| network(item.get_ref())).collect::<Result<_, _>>().map(Networks)
    }
    fn write(&self) -> Option<String> {
        let networks: Vec<String> = self.0.iter().map(|network| quoted(&network.to_string())).collect();
        Some(format!("[{}]", networks.join(", ")))
    }
}

/// Permissions of a file, in octal: `0770`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Value for FileMode {
    const KIND: &'static str = "octal permissions";
    fn read(value: &DeValue<'_>) -> Result<FileMode, String> {
        let wanted = "permissions in octal such as \"0770\"";
        let text = text(value, wanted)?;
        let octal = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        match u32::from_str_radix(text, 8) {
            Ok(mode @ 0..=0o777) if octal => Ok(FileMode(mode)),
            _ => Err(format!("needs {wanted}")),
        }
    }
    fn write(&self) -> Option<String> {
        Some(quoted(&format!("{:04o}", self.0)))
    }
}

/// An address that clients connect to: `db.example.com:6432`, `[::1]:6432`. The name is not resolved here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort(String);

impl HostPort {
    pub fn parse(text: &str) -> Option<HostPort> {
        let (host, port) = text.rsplit_once(':')?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let plain = |c: char| c.is_alphanumeric() || "-._".contains(c);
        let good = match bare {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(plain),
        };
        let port: u16 = port.parse().ok()?;
        (good && port != 0).then(|| HostPort(text.to_owned()))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for HostPort {
    const KIND: &'static str = "host and port";
    fn read(value: &DeValue<'_>) -> Result<HostPort, String> {
        let wanted = "a host and a port such as \"db.example.com:6432\"";
        HostPort::parse(text(value, wanted)?).ok_or_else(|| format!("needs {wanted}"))
    }
    fn write(&self) -> Option<String> {
        Some(quoted(&self.0))
    }
}

impl Value for PathBuf {
    const KIND: &'static str = "path";
    fn read(value: &DeValue<'_>) -> Result<PathBuf, String> {
        match text(value, "a path")? {
            "" => Err("needs a path; leave the line out for none".to_owned()),
            path => Ok(PathBuf::from(path)),
        }
    }
    fn write(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
}

impl Value for String {
    const KIND: &'static str = "text";
    fn read(value: &DeValue<'_>) -> Result<String, String> {
        text(value, "a text").map(str::to_owned)
    }
    fn write(&self) -> Option<String> {
        Some(quoted(self))
    }
}

impl Value for ProxyId {
    const KIND: &'static str = "word";
    fn read(value: &DeValue<'_>) -> Result<ProxyId, String> {
        let wanted = "lower-case letters, digits, \"-\" and \"_\"";
        ProxyId::parse(text(value, wanted)?).map_err(|error| format!("needs {wanted}: {error}"))
    }
    fn write(&self) -> Option<String> {
        Some(quoted(self.as_str()))
    }
}

impl<T: Value> Value for Option<T> {
    const KIND: &'static str = T::KIND;
    fn read(value: &DeValue<'_>) -> Result<Option<T>, String> {
        T::read(value).map(Some)
    }
    fn write(&self) -> Option<String> {
        self.as_ref().and_then(T::write)
    }
}

impl Value for Vec<PathBuf> {
    const KIND: &'static str = "list of paths";
    fn read(value: &DeValue<'_>) -> Result<Vec<PathBuf>, String> {
        let wanted = || {
            format!(
                "needs a list of paths such as [\"/usr/lib/postgresql/17/bin\"], not {}",
                article(value.type_str())
            )
        };
        let items = value.as_array().ok_or_else(wanted)?;
        items.iter().map(|item| PathBuf::read(item.get_ref())).collect()
    }
    fn write(&self) -> Option<String> {
        let items: Vec<String> = self.iter().filter_map(Value::write).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// Settings with a fixed set of values.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            pub const WORDS: &'static [&'static str] = &[$($word,)*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)*
                }
            }

            pub fn parse(word: &str) -> Option<$name> {
                match word {
                    $($word => Some($name::$variant),)*
                    _ => None,
                }
            }
        }

        impl Value for $name {
            const KIND: &'static str = concat!("one of" $(, " ", $word)*);
            fn read(value: &DeValue<'_>) -> Result<$name, String> {
                let wanted = format!("one of {}", $name::WORDS.join(", "));
                let word = text(value, &wanted)?;
                $name::parse(word).ok_or_else(|| match closest(word, $name::WORDS.iter().copied()) {
                    Some(meant) => format!("needs {wanted}; did you mean \"{meant}\"?"),
                    None => format!("needs {wanted}"),
                })
            }
            fn write(&self) -> Option<String> {
                Some(quoted(self.as_str()))
            }
        }
    )*};
}

words! {
    /// Whether clients use TLS.
    ClientTls {
        Disable = "disable",
        /// TLS if the client asks for it.
        Prefer = "prefer",
        /// Clients without TLS are refused (unix sockets excepted).
        Require = "require",
    }
    LogLevel {
        Error = "error",
        Warn = "warn",
        Info = "info",
        Debug = "debug",
        Trace = "trace",
    }
    LogFormat {
        /// Lines of text for people.
        Text = "text",
        /// One JSON object on each line.
        Json = "json",
    }
}
