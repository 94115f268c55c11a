//! Where a passphrase comes from.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    path::Path,
};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::cli::output::Failure;

const VARIABLE: &str = "GHOSTD_WALLET_PASSPHRASE";
/// Longest passphrase.
const BYTES_MAX: u64 = 1024;

/// One that is given, by file or environment.
fn given(file: Option<&Path>) -> Result<Option<Zeroizing<String>>, Failure> {
    if let Some(path) = file {
        let cannot = |error: io::Error| Failure::new(format!("cannot read {}: {error}", path.display()));
        let mut line = Zeroizing::new(String::new());
        BufReader::new(File::open(path).map_err(cannot)?.take(BYTES_MAX))
            .read_line(&mut line)
            .map_err(cannot)?;
        return Ok(Some(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned())));
    }
    Ok(std::env::var(VARIABLE).ok().filter(|text| !text.is_empty()).map(Zeroizing::new))
}

/// Asks on the terminal, without showing what is typed.
fn prompt(question: &str) -> Result<Zeroizing<String>, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::new("the wallet's passphrase is needed, and there is no terminal to ask on")
            .hint(format!("name a file that holds it: --passphrase-file FILE, or set ${VARIABLE}")));
    }
    let _ = write!(io::stderr(), "{question}: ");
    let _ = io::stderr().flush();
    let shown = tcgetattr(&stdin)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Now, &hidden)?;
    let mut line = Zeroizing::new(String::new());
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Now, &shown)?;
    let _ = writeln!(io::stderr());
    read?;
    Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
}

/// That of a wallet that is there.
pub(super) fn known(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    match given(file)? {
        Some(phrase) => Ok(phrase),
        None => prompt("passphrase"),
    }
}

/// One for a new wallet.
pub(super) fn choose(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    let phrase = match given(file)? {
        Some(phrase) => phrase,
        None => {
            let first = prompt("a passphrase for the new wallet")?;
            if *first != *prompt("again")? {
                return Err(Failure::new("the two are not the same; no wallet was made"));
            }
            first
        }
    };
    if phrase.is_empty() {
        return Err(Failure::usage("an empty passphrase protects nothing"));
    }
    Ok(phrase)
}
