//! What kinds of values there are, and how text becomes one.

use std::{net::SocketAddr, path::PathBuf};

use ghost_discovery::prefix::Prefix;
use ghost_proto::{Multiaddr, PeerId};

use super::FIELDS;

/// What a setting may be set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Whole {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
        /// What it counts.
        unit: &'static str,
    },
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// Text of this meaning.
    Text(&'static str),
    /// A list of texts of this meaning.
    List(&'static str),
}

impl Kind {
    /// What is allowed, for people.
    pub(super) fn allowed(&self) -> String {
        match self {
            Self::Flag => "true or false".into(),
            Self::Whole { min, max, unit } => format!("{min} to {max} ({unit})"),
            Self::Choice(words) => {
                words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
            }
            Self::Text(meaning) => format!("text: {meaning}"),
            Self::List(meaning) => format!("a list of texts: {meaning}"),
        }
    }

    /// The line about bounds in the commented file.
    pub(super) fn range(&self) -> Option<String> {
        match self {
            Self::Whole { min, max, unit } => Some(format!("Unit: {unit}. Smallest {min}, largest {max}.")),
            Self::Choice(_) => Some(format!("Allowed: {}.", self.allowed())),
            Self::Flag | Self::Text(_) | Self::List(_) => None,
        }
    }

    pub(super) fn admits(&self, value: &toml::Value) -> bool {
        match (self, value) {
            (Self::Flag, toml::Value::Boolean(_)) | (Self::Text(_), toml::Value::String(_)) => true,
            (Self::Whole { min, max, .. }, toml::Value::Integer(number)) => {
                u64::try_from(*number).is_ok_and(|number| (*min..=*max).contains(&number))
            }
            (Self::Choice(words), toml::Value::String(word)) => words.contains(&word.as_str()),
            (Self::List(_), toml::Value::Array(items)) => items.iter().all(toml::Value::is_str),
            _ => false,
        }
    }

    /// The value that an environment variable spells.
    pub(super) fn value_of_text(&self, text: &str) -> Option<toml::Value> {
        Some(match self {
            Self::Flag => toml::Value::Boolean(match text {
                "true" | "1" => true,
                "false" | "0" => false,
                _ => return None,
            }),
            Self::Whole { .. } => toml::Value::Integer(text.trim().parse().ok()?),
            Self::Choice(_) | Self::Text(_) => toml::Value::String(text.into()),
            Self::List(_) => toml::Value::Array(
                text.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(|item| toml::Value::String(item.into()))
                    .collect(),
            ),
        })
    }
}

/// What is known of a setting.
#[derive(Debug)]
pub struct Field {
    /// Section of the file.
    pub section: &'static str,
    /// Name in its section.
    pub name: &'static str,
    /// What it does and what it costs.
    pub doc: &'static str,
    /// What it may be set to.
    pub kind: Kind,
    /// The default as a TOML literal.
    pub default: &'static str,
}

impl Field {
    /// `section.name`.
    pub fn key(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The variable that sets it.
    pub fn variable(&self) -> String {
        format!("GHOSTD_{}_{}", self.section, self.name).to_uppercase()
    }

    pub(super) fn find(key: &str) -> Option<&'static Self> {
        FIELDS.iter().find(|field| field.key() == key)
    }

    pub(super) fn default_value(&self) -> toml::Value {
        let mut table: toml::Table =
            toml::from_str(&format!("default = {}", self.default)).expect("a default is a TOML literal");
        table.remove("default").expect("it was just written")
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the node does for its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Checks, keeps and relays.
    Follower,
    /// Proposes and votes as well.
    Authority,
}

/// What Tor is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TorMode {
    /// Nothing.
    Off,
    /// Further peers.
    Also,
    /// Everything.
    Only,
}

impl TorMode {
    /// The word in settings and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Also => "also",
            Self::Only => "only",
        }
    }
}

/// A typed setting. The error says what is allowed.
pub(super) trait Readable: Sized {
    fn read(value: &toml::Value) -> Result<Self, String>;
}

fn text(value: &toml::Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| "text".into())
}

impl Readable for bool {
    fn read(value: &toml::Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "true or false".into())
    }
}

impl Readable for u32 {
    fn read(value: &toml::Value) -> Result<Self, String> {
        value
            .as_integer()
            .and_then(|number| number.try_into().ok())
            .ok_or_else(|| "a whole number of 32 bits".into())
    }
}

impl Readable for u64 {
    fn read(value: &toml::Value) -> Result<Self, String> {
        value
            .as_integer()
            .and_then(|number| number.try_into().ok())
            .ok_or_else(|| "a whole number that is not negative".into())
    }
}

impl Readable for String {
    fn read(value: &toml::Value) -> Result<Self, String> {
        text(value).map(Into::into)
    }
}

impl Readable for PathBuf {
    fn read(value: &toml::Value) -> Result<Self, String> {
        match text(value)? {
            "" => Err("the path of a file; relative ones start at the home".into()),
            path => Ok(path.into()),
        }
    }
}

impl Readable for LogFormat {
    fn read(value: &toml::Value) -> Result<Self, String> {
        match text(value)? {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("\"text\" or \"json\"".into()),
        }
    }
}

impl Readable for TorMode {
    fn read(value: &toml::Value) -> Result<Self, String> {
        match text(value)? {
            "off" => Ok(Self::Off),
            "also" => Ok(Self::Also),
            "only" => Ok(Self::Only),
            _ => Err("\"off\", \"also\" or \"only\"".into()),
        }
    }
}

impl Readable for Role {
    fn read(value: &toml::Value) -> Result<Self, String> {
        match text(value)? {
            "follower" => Ok(Self::Follower),
            "authority" => Ok(Self::Authority),
            _ => Err("\"follower\" or \"authority\"".into()),
        }
    }
}

impl Readable for Multiaddr {
    fn read(value: &toml::Value) -> Result<Self, String> {
        text(value)?
            .parse()
            .map_err(|error| format!("a multiaddr such as /ip4/203.0.113.7/udp/4001/quic-v1 ({error})"))
    }
}

impl Readable for PeerId {
    fn read(value: &toml::Value) -> Result<Self, String> {
        text(value)?.parse().map_err(|_| "a PeerId such as 12D3KooW…".into())
    }
}

impl Readable for Prefix {
    fn read(value: &toml::Value) -> Result<Self, String> {
        text(value)?
            .parse()
            .map_err(|_| "an IP address or a range such as 10.0.0.0/8 or 2001:db8::/32".into())
    }
}

impl Readable for SocketAddr {
    fn read(value: &toml::Value) -> Result<Self, String> {
        text(value)?.parse().map_err(|_| "an address and a port such as 127.0.0.1:9464".into())
    }
}

impl<T: Readable> Readable for Vec<T> {
    fn read(value: &toml::Value) -> Result<Self, String> {
        let items = value.as_array().ok_or("a list")?;
        items
            .iter()
            .map(|item| {
                T::read(item).map_err(|allowed| format!("a list of which each is {allowed}; {item} is not"))
            })
            .collect()
    }
}

/// Empty text means "none".
impl<T: Readable> Readable for Option<T> {
    fn read(value: &toml::Value) -> Result<Self, String> {
        if value.as_str() == Some("") {
            return Ok(None);
        }
        T::read(value).map(Some).map_err(|allowed| format!("{allowed}, or \"\" for none"))
    }
}
