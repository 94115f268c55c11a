//! Settings: defaults, then `config.toml`, then the environment, then flags; later ones win.
//!
//! A key in the file is `section.field`; in the environment it is `GHOSTD_SECTION_FIELD`, lists with
//! commas between their items. `GHOSTD_LOG` is short for `GHOSTD_LOG_FILTER`. So
//! `GHOSTD_NETWORK_INBOUND_MAX=20` says what `inbound_max = 20` under `[network]` does.
//!
//! A key that is not known is refused, with the nearest one that is: a setting that is silently
//! ignored is worse than a node that does not start.

mod address;
mod schema;
mod value;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use crate::logging;

pub use address::{listen_socket, parse_listen, parse_node, parse_peer};
pub use schema::{Chain, Config, FIELDS, Log, Mempool, Metrics, Network, Rpc, Shape, Store, Tor};
pub use value::{Field, Kind, LogFormat, Role, TorMode};

/// Longest `config.toml` that is read, in bytes.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;

/// Settings that a node cannot start with. The text names the place and what is allowed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{}: {message}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line it is on.
        message: String,
    },
    /// A key that means nothing.
    #[error("{place}: `{key}` is no setting{}", .nearest.as_ref().map(|near| format!("; did you mean `{near}`?")).unwrap_or_default())]
    UnknownKey {
        /// File and line, or the variable.
        place: String,
        /// The key.
        key: String,
        /// The known one that looks most like it.
        nearest: Option<String>,
    },
    /// A value that its setting cannot have.
    #[error("{place}: `{key}` is {value}; allowed is {allowed}")]
    Invalid {
        /// File and line, variable or flag.
        place: String,
        /// The setting.
        key: String,
        /// What it was set to.
        value: String,
        /// What it may be set to.
        allowed: String,
    },
    /// A value of the right kind that cannot be used.
    #[error("{place}: `{key}`: {reason}")]
    Unusable {
        /// File and line, variable or flag.
        place: String,
        /// The setting.
        key: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// A value with the place it came from, for messages.
#[derive(Debug, Clone)]
struct Placed {
    value: toml::Value,
    place: String,
}

/// Settings being put together: each layer overrides the ones before.
#[derive(Debug, Clone)]
pub struct Layers {
    values: BTreeMap<String, Placed>,
}

impl Default for Layers {
    fn default() -> Self {
        Self::new()
    }
}

impl Layers {
    /// The defaults alone.
    pub fn new() -> Self {
        let values = FIELDS
            .iter()
            .map(|field| {
                let placed = Placed { value: field.default_value(), place: "the defaults".into() };
                (field.key(), placed)
            })
            .collect();
        Self { values }
    }

    /// Adds what a file says.
    pub fn file(mut self, path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let length = fs::metadata(path).map_err(unreadable)?.len();
        if length > CONFIG_FILE_BYTES_MAX {
            return Err(ConfigError::Syntax {
                path: path.to_owned(),
                message: format!("has {length} bytes; at most {CONFIG_FILE_BYTES_MAX} are read"),
            });
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        self.text(path, &text)?;
        Ok(self)
    }

    fn text(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let parsed = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        let place = |at: usize| {
            let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("{}:{line}", path.display())
        };
        for (section, value) in parsed.get_ref() {
            let at = place(section.span().start);
            let section = section.get_ref().as_ref();
            let known = FIELDS.iter().any(|field| field.section == section);
            let DeValue::Table(fields) = value.get_ref() else {
                return Err(unknown_key(at, section));
            };
            if !known {
                return Err(unknown_section(at, section));
            }
            for (name, value) in fields {
                let at = place(name.span().start);
                let key = format!("{section}.{}", name.get_ref());
                let value = plain(value.get_ref());
                self.set(&key, value, at)?;
            }
        }
        Ok(())
    }

    /// Adds what the environment says. Variables that do not start with `GHOSTD_` and the name of a
    /// section are not ours (Kubernetes, for one, sets `GHOSTD_PORT` beside a service of that name).
    pub fn environment(
        mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut variables: Vec<_> = variables.into_iter().collect();
        variables.sort();
        for (variable, text) in variables {
            let place = format!("environment variable {variable}");
            if variable == "GHOSTD_LOG" {
                self.set("log.filter", toml::Value::String(text), place)?;
                continue;
            }
            let Some(rest) = variable.strip_prefix("GHOSTD_") else { continue };
            let Some(section) = FIELDS.iter().map(|field| field.section).find(|section| {
                rest.strip_prefix(&section.to_uppercase()).is_some_and(|name| name.starts_with('_'))
            }) else {
                continue;
            };
            let key = format!("{section}.{}", rest[section.len() + 1..].to_lowercase());
            let Some(field) = Field::find(&key) else {
                return Err(unknown_key(place, &key));
            };
            let value = field.kind.value_of_text(&text).ok_or_else(|| ConfigError::Invalid {
                place: place.clone(),
                key: key.clone(),
                value: format!("{text:?}"),
                allowed: field.kind.allowed(),
            })?;
            self.set(&key, value, place)?;
        }
        Ok(self)
    }

    /// Sets one value from a flag of the command line.
    pub fn flag(mut self, flag: &str, key: &str, value: impl Into<toml::Value>) -> Result<Self, ConfigError> {
        self.set(key, value.into(), format!("flag {flag}"))?;
        Ok(self)
    }

    /// Adds items to a list from a flag of the command line.
    pub fn flag_items(
        mut self,
        flag: &str,
        key: &str,
        items: impl IntoIterator<Item = String>,
    ) -> Result<Self, ConfigError> {
        let mut list = match self.values.get(key) {
            Some(Placed { value: toml::Value::Array(list), .. }) => list.clone(),
            _ => Vec::new(),
        };
        list.extend(items.into_iter().map(toml::Value::String));
        self.set(key, toml::Value::Array(list), format!("flag {flag}"))?;
        Ok(self)
    }

    fn set(&mut self, key: &str, value: toml::Value, place: String) -> Result<(), ConfigError> {
        let Some(field) = Field::find(key) else {
            return Err(unknown_key(place, key));
        };
        if !field.kind.admits(&value) {
            return Err(ConfigError::Invalid {
                place,
                key: key.into(),
                value: value.to_string(),
                allowed: field.kind.allowed(),
            });
        }
        self.values.insert(key.into(), Placed { value, place });
        Ok(())
    }

    /// Checks everything that the kind of a value alone cannot show, and gives the settings: a node
    /// starts with them, or has another reason not to.
    pub fn finish(self) -> Result<Config, ConfigError> {
        let config = Config::from_layers(&self)?;
        let network = &config.network;
        self.check("network.listen", network.listen.iter().try_for_each(address::check_listen))?;
        self.check("network.peers", network.peers.iter().try_for_each(address::check_peer))?;
        self.check("network.seeds", network.seeds.iter().try_for_each(address::check_peer))?;
        let external = network.external_address.iter().try_for_each(address::check_external);
        self.check("network.external_address", external)?;
        self.check("network.peers", address::check_networks(&network.peers, &config.tor))?;
        self.check("network.seeds", address::check_networks(&network.seeds, &config.tor))?;
        self.check("network.dns_seeds", address::check_dns(network, &config.tor))?;
        self.check("tor.mode", address::check_tor(&config.tor))?;
        self.check("tor.external_address", address::check_onion(&config.tor))?;
        self.check("log.filter", logging::check(&config.log.filter).map_err(|error| error.to_string()))?;
        Ok(config)
    }

    fn check(&self, key: &str, checked: Result<(), String>) -> Result<(), ConfigError> {
        checked.map_err(|reason| ConfigError::Unusable {
            place: self.values[key].place.clone(),
            key: key.into(),
            reason,
        })
    }

    /// The typed value of a setting.
    fn read<T: value::Readable>(&self, key: &str) -> Result<T, ConfigError> {
        let placed = &self.values[key];
        T::read(&placed.value).map_err(|allowed| ConfigError::Invalid {
            place: placed.place.clone(),
            key: key.into(),
            value: placed.value.to_string(),
            allowed,
        })
    }
}

impl Config {
    /// The settings of a home: its file, and over it the process's environment.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Layers::new().file(path)?.environment(std::env::vars())?.finish()
    }
}

impl Default for Config {
    fn default() -> Self {
        Layers::new().finish().expect("the defaults are allowed values")
    }
}

/// A `config.toml` with every setting explained. Those in `changed` are set (`key`, TOML literal); the
/// others stand there commented out with their defaults, so that a later version may improve them.
pub fn commented_file(changed: &[(&str, String)]) -> String {
    let mut out = String::from(
        "# Settings of a ghostd node. Lines that start with `#` show the default.\n\
         # Each can also be set in the environment: GHOSTD_ and the section and the name in capitals,\n\
         # as in GHOSTD_NETWORK_INBOUND_MAX=20; lists take commas. Flags of `ghostd run` win over both.\n",
    );
    let mut section = "";
    for field in FIELDS {
        if field.section != section {
            section = field.section;
            let _ = writeln!(out, "\n[{section}]");
        }
        out.push('\n');
        for line in field.doc.lines() {
            let _ = writeln!(out, "# {}", line.trim());
        }
        if let Some(range) = field.kind.range() {
            let _ = writeln!(out, "# {range}");
        }
        let key = field.key();
        let _ = match changed.iter().find(|(changed, _)| *changed == key) {
            Some((_, literal)) => writeln!(out, "{} = {literal}", field.name),
            None => writeln!(out, "#{} = {}", field.name, field.default),
        };
    }
    out
}

fn unknown_key(place: String, key: &str) -> ConfigError {
    // A key that stands under the wrong section is as common as one that is misspelt: names are
    // compared alone as well.
    let name = key.rsplit('.').next().unwrap_or(key);
    let nearest = FIELDS
        .iter()
        .map(|field| {
            let alike = strsim::jaro_winkler(key, &field.key()).max(strsim::jaro_winkler(name, field.name));
            (alike, field.key())
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(alike, _)| *alike > 0.75)
        .map(|(_, key)| key);
    ConfigError::UnknownKey { place, key: key.into(), nearest }
}

fn unknown_section(place: String, section: &str) -> ConfigError {
    let nearest = FIELDS
        .iter()
        .map(|field| (strsim::jaro_winkler(section, field.section), field.section))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(alike, _)| *alike > 0.7)
        .map(|(_, section)| format!("[{section}]"));
    ConfigError::UnknownKey { place, key: format!("[{section}]"), nearest }
}

/// A parsed value without its place in the text.
fn plain(value: &DeValue<'_>) -> toml::Value {
    match value {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| toml::Value::String(number.to_string()), toml::Value::Integer),
        DeValue::Float(number) => toml::Value::String(number.to_string()),
        DeValue::Boolean(flag) => toml::Value::Boolean(*flag),
        DeValue::Datetime(time) => toml::Value::Datetime(*time),
        DeValue::Array(items) => toml::Value::Array(items.iter().map(|item| plain(item.get_ref())).collect()),
        DeValue::Table(_) => toml::Value::Table(toml::Table::new()),
    }
}

#[cfg(test)]
mod tests;
