//! The list of roles with limits of their own: each mistake is reported at its position.

use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::settings::within;
use super::value::{Value, quoted};
use super::{ConfigError, closest};
use crate::model::quotas::{LOGINS_PER_SECOND_MAX, MESSAGE_SIZES};
use crate::model::{ByteSize, DatabaseName, Quotas, RoleLimits, RoleName, RolesLimits, Timeout, Timeouts};

const CLIENTS_MAX: u32 = 10_000_000;

const KEYS: [&str; 10] = [
    "name",
    "database",
    "clients_max",
    "logins_per_second_max",
    "message_size_max",
    "idle",
    "idle_in_transaction",
    "transaction",
    "query",
    "wait",
];

impl Value for RolesLimits {
    const KIND: &'static str = "list of tables";

    fn read(_: &DeValue<'_>) -> Result<RolesLimits, String> {
        Err("needs a list of tables".to_owned())
    }

    fn read_placed(path: &str, value: &Spanned<DeValue<'_>>) -> Result<RolesLimits, Vec<ConfigError>> {
        let wanted = |span| vec![ConfigError::new(Some(span), format!("{path} needs tables: [[{path}]]"))];
        let items = value.get_ref().as_array().ok_or_else(|| wanted(value.span()))?;
        let (mut roles, mut problems) = (RolesLimits::default(), Vec::new());
        for item in items.iter() {
            let DeValue::Table(table) = item.get_ref() else {
                problems.extend(wanted(item.span()));
                continue;
            };
            match role(path, item, table) {
                Ok(limits) => {
                    let message = format!("{path} has two tables for role \"{}\"", limits.role);
                    if !roles.add(limits) {
                        problems.push(ConfigError::new(Some(item.span()), message));
                    }
                }
                Err(wrong) => problems.extend(wrong),
            }
        }
        if problems.is_empty() { Ok(roles) } else { Err(problems) }
    }

    fn write(&self) -> Option<String> {
        let tables: Vec<String> = self.iter().map(written).collect();
        Some(format!("[{}]", tables.join(", ")))
    }
}

fn role(
    path: &str,
    item: &Spanned<DeValue<'_>>,
    table: &DeTable<'_>,
) -> Result<RoleLimits, Vec<ConfigError>> {
    let (mut name, mut database) = (None, None);
    let (mut clients_max, mut quotas) = (None, Quotas::default());
    let mut timeouts = Timeouts::default();
    let mut problems = Vec::new();
    for (key, value) in table {
        let (word, value, span) = (key.get_ref().as_ref(), value.get_ref(), value.span());
        let timeout = Timeout::ALL.into_iter().find(|timeout| timeout.name() == word);
        let read = match (word, timeout) {
            ("name", _) => named(value, RoleName::parse).map(|role| name = Some(role)),
            ("database", _) => named(value, DatabaseName::parse).map(|name| database = Some(name)),
            ("clients_max", _) => count(value, CLIENTS_MAX).map(|clients| clients_max = Some(clients)),
            ("logins_per_second_max", _) => {
                count(value, LOGINS_PER_SECOND_MAX).map(|logins| quotas.logins_per_second_max = Some(logins))
            }
            ("message_size_max", _) => size(value).map(|size| quotas.message_size_max = Some(size)),
            (_, Some(timeout)) => time(timeout, value).map(|time| timeouts[timeout] = Some(time)),
            (_, None) => {
                let problem = ConfigError::new(Some(key.span()), format!("unknown setting {path}.{word}"));
                let hint = match closest(word, KEYS) {
                    Some(meant) => format!("Did you mean \"{meant}\"?"),
                    None => format!("Settings of [[{path}]] are {}.", KEYS.join(", ")),
                };
                problems.push(problem.with_hint(hint));
                continue;
            }
        };
        if let Err(message) = read {
            problems.push(ConfigError::new(Some(span), format!("{path}.{word} {message}")));
        }
    }
    match name {
        Some(role) if problems.is_empty() => Ok(RoleLimits { role, database, clients_max, quotas, timeouts }),
        None if !table.contains_key("name") => {
            problems.push(ConfigError::new(Some(item.span()), format!("{path} needs the name of a role")));
            Err(problems)
        }
        _ => Err(problems),
    }
}

fn named<T, E: std::fmt::Display>(
    value: &DeValue<'_>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<T, String> {
    parse(&String::read(value)?).map_err(|error| format!("needs a name: {error}"))
}

fn count(value: &DeValue<'_>, max: u32) -> Result<u32, String> {
    within(u32::read(value)?, &(0..=max))
}

fn size(value: &DeValue<'_>) -> Result<ByteSize, String> {
    within(ByteSize::read(value)?, &MESSAGE_SIZES)
}

fn time(timeout: Timeout, value: &DeValue<'_>) -> Result<Duration, String> {
    let time = Duration::read(value)?;
    timeout.check(time).map(|()| time).map_err(str::to_owned)
}

fn written(limits: &RoleLimits) -> String {
    let mut parts = vec![format!("name = {}", quoted(limits.role.as_str()))];
    parts.extend(limits.database.as_ref().map(|name| format!("database = {}", quoted(name.as_str()))));
    parts.extend(limits.clients_max.map(|clients| format!("clients_max = {clients}")));
    let Quotas { message_size_max, logins_per_second_max } = limits.quotas;
    parts.extend(logins_per_second_max.map(|logins| format!("logins_per_second_max = {logins}")));
    parts.extend(message_size_max.and_then(|size| Some(format!("message_size_max = {}", size.write()?))));
    for timeout in Timeout::ALL {
        let time = limits.timeouts[timeout].and_then(|time| time.write());
        parts.extend(time.map(|time| format!("{} = {time}", timeout.name())));
    }
    format!("{{{}}}", parts.join(", "))
}
