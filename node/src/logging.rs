//! Log lines, on standard error only: standard output belongs to what was asked for.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Log, LogFormat};

/// A filter that means nothing, or logging that was started already.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter does not parse.
    #[error(
        "log filter `{filter}` is no list of LEVEL or TARGET=LEVEL ({reason})\n  an example: warn,ghost=info"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The process logs already.
    #[error("logging was started twice in this process")]
    Started,
}

/// Starts logging for this process.
///
/// `ghost` in a filter means all crates of the node, because their names start with it. Colours are
/// used on a terminal unless `NO_COLOR` is set to anything.
pub fn start(log: &Log) -> Result<(), LoggingError> {
    let filter = parse(&log.filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let colours =
        std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match log.format {
        LogFormat::Text => {
            registry.with(fmt::layer().with_writer(std::io::stderr).with_ansi(colours)).try_init()
        }
        LogFormat::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
        }
    }
    .map_err(|_| LoggingError::Started)
}

/// Checks a filter without using it.
pub fn check(filter: &str) -> Result<(), LoggingError> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| LoggingError::Filter { filter: filter.into(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn filters_are_checked_when_the_node_starts() {
        parse(&Config::default().log.filter).unwrap();
        parse("ghost_node=trace,ghost_protocol=off").unwrap();
        let error = parse("ghost_node=loud").unwrap_err().to_string();
        assert!(error.contains("`ghost_node=loud`") && error.contains("warn,ghost=info"), "{error}");
    }
}
