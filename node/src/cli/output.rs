//! What goes to standard output and standard error, and with which exit code.

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use serde::Serialize;
use serde_json::{Value, json};

/// Something that was asked for and not done. The text says what to do.
#[derive(Debug)]
pub struct Failure {
    text: String,
    code: u8,
    fields: Vec<(&'static str, Value)>,
}

impl Failure {
    /// It failed: exit code 1.
    pub fn new(text: impl fmt::Display) -> Self {
        Self { text: text.to_string(), code: 1, fields: Vec::new() }
    }

    /// It was asked in a way that means nothing: exit code 2.
    pub fn usage(text: impl fmt::Display) -> Self {
        Self { text: text.to_string(), code: 2, fields: Vec::new() }
    }

    /// Nobody reads the answer any more (`head`, a pager has seen enough): all that can be done is to end,
    /// in order and without a word.
    fn nobody_reads() -> Self {
        Self { text: String::new(), code: 0, fields: Vec::new() }
    }

    /// Ctrl-C while an answer was waited for: whoever typed it knows. The exit code is a shell's.
    pub(super) fn interrupted() -> Self {
        Self { text: String::new(), code: 130, fields: Vec::new() }
    }

    /// The same, with something that a program finds beside the text.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.fields.push((name, value.into()));
        self
    }

    /// The same with a line about what to do.
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.text = format!("{}\n  {hint}", self.text);
        self
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let part = error.to_string();
            // Many errors repeat their source in their own text.
            if !text.contains(&part) {
                text = format!("{text}: {part}");
            }
            cause = error.source();
        }
        Self::new(text)
    }
}

/// Writes answers in the form that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Out {
    json: bool,
}

impl Out {
    /// For programs if `json`, else for people.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// True if a program reads.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// One answer: `value` for a program, `text` for a person.
    pub fn answer(&self, value: &impl Serialize, text: impl fmt::Display) -> Result<ExitCode, Failure> {
        let text = if self.json { serde_json::to_string(value)? } else { text.to_string() };
        self.bytes(format!("{}\n", text.trim_end_matches('\n')).as_bytes())
    }

    /// Bytes as they are.
    pub fn bytes(&self, bytes: &[u8]) -> Result<ExitCode, Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::nobody_reads()),
            Err(error) => Err(Failure::new(format!("cannot write to standard output: {error}"))),
        }
    }

    /// A remark for people, on standard error; programs do not get it.
    pub fn remark(&self, text: impl fmt::Display) {
        if !self.json {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Says what went wrong: text on standard error, and for a program an object on standard output,
    /// so that it always has one to read.
    pub fn fail(&self, failure: &Failure) -> ExitCode {
        if failure.text.is_empty() {
            return ExitCode::from(failure.code);
        }
        let _ = writeln!(io::stderr(), "error: {}", failure.text);
        if self.json {
            let mut value = json!({ "error": failure.text });
            for (name, field) in &failure.fields {
                value[*name] = field.clone();
            }
            let _ = self.bytes(format!("{value}\n").as_bytes());
        }
        ExitCode::from(failure.code)
    }
}

/// Columns, as wide as their widest cell; the last one is not padded.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With a heading.
    pub fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self { rows: vec![heading.map(Into::into).into()] }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                if column + 1 == row.len() {
                    writeln!(f, "{cell}")?;
                } else {
                    write!(f, "{cell:<0$}  ", widths[column])?;
                }
            }
        }
        Ok(())
    }
}

/// `1.5 KiB`, `64.0 MiB`.
pub fn bytes_for_people(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", units[unit])
}

/// `350 ms`, `12.0 s`, `5 min 3 s`, `2 h 10 min`, `3 d 4 h`.
pub fn duration_for_people(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{:.1} s", ms as f64 / 1_000.0),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// `1 peer`, `2 peers`.
pub fn count_for_people(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Milliseconds since 1970-01-01 UTC, by this machine's clock.
pub fn unix_ms_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
