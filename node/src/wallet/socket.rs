//! Asking a wallet that is open in another process: a socket in its directory, which only its owner may use.
//!
//! One connection, one question, one JSON object a line each way: `{"ask":"say",…}`, then `{"ok":…}` or
//! `{"error":"…"}`. `{"ask":"follow"}` is answered with events, one a line, until the asker goes.

use std::{io, os::unix::fs::PermissionsExt, path::Path};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::broadcast,
};

use super::{
    ask::Ask,
    daemon::{Asker, Walletd},
};

/// Longest question.
const LINE_BYTES_MAX: u64 = 256 * 1024;

/// Serves a wallet on its socket until it closes. The wallet's store is locked by this process, so a socket that is
/// there already is left over from one that was killed.
pub fn serve(path: &Path, wallet: &Walletd) -> io::Result<tokio::task::JoinHandle<()>> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let (asker, events) = (wallet.asker(), wallet.event_source());
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, asker.clone(), events.subscribe()));
        }
    }))
}

async fn answer(
    stream: UnixStream,
    asker: Asker,
    mut events: broadcast::Receiver<super::daemon::WalletEvent>,
) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    if BufReader::new(read.take(LINE_BYTES_MAX)).read_line(&mut line).await.is_err() {
        return;
    }
    let parsed: Result<Value, _> = serde_json::from_str(&line);
    if parsed.as_ref().is_ok_and(|value| value["ask"] == "follow") {
        drop(asker);
        loop {
            let event = match events.recv().await {
                Ok(event) => event,
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            let line = json!({ "event": event }).to_string() + "\n";
            if write.write_all(line.as_bytes()).await.is_err() {
                return;
            }
        }
    }
    let answer = match parsed
        .map_err(|error| error.to_string())
        .and_then(|value| serde_json::from_value::<Ask>(value).map_err(|error| error.to_string()))
    {
        Ok(ask) => asker.ask(ask).await,
        Err(error) => Err(error),
    };
    let line = match answer {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "error": error }),
    };
    // Whoever asked may be gone.
    let _ = write.write_all((line.to_string() + "\n").as_bytes()).await;
}

/// A process that has the wallet open.
#[derive(Debug)]
pub struct Remote {
    path: std::path::PathBuf,
}

/// What happens in a wallet of another process.
#[derive(Debug)]
pub struct RemoteEvents(tokio::io::Lines<BufReader<UnixStream>>);

impl RemoteEvents {
    /// The next event; `None` when the wallet closes.
    pub async fn next(&mut self) -> Option<super::daemon::WalletEvent> {
        loop {
            let line = self.0.next_line().await.ok()??;
            let value: Value = serde_json::from_str(&line).ok()?;
            if let Ok(event) = serde_json::from_value(value["event"].clone()) {
                return Some(event);
            }
        }
    }
}

impl Remote {
    /// Whoever serves this socket; `None` if nobody does.
    pub async fn connect(path: &Path) -> Option<Self> {
        UnixStream::connect(path).await.ok()?;
        Some(Self { path: path.to_owned() })
    }

    /// Asks it something.
    pub async fn ask(&self, ask: &Ask) -> Result<Value, String> {
        let broken =
            |error: io::Error| format!("the process that has the wallet open does not answer: {error}");
        let mut stream = UnixStream::connect(&self.path).await.map_err(broken)?;
        let line = serde_json::to_string(ask).map_err(|error| error.to_string())? + "\n";
        stream.write_all(line.as_bytes()).await.map_err(broken)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await.map_err(broken)?;
        let mut answer: Value = serde_json::from_str(&answer)
            .map_err(|_| "the process that had the wallet open has ended".to_owned())?;
        match answer["error"].as_str() {
            Some(error) => Err(error.into()),
            None => Ok(answer["ok"].take()),
        }
    }

    /// What happens from now on.
    pub async fn events(&self) -> io::Result<RemoteEvents> {
        let mut stream = UnixStream::connect(&self.path).await?;
        stream.write_all(b"{\"ask\":\"follow\"}\n").await?;
        Ok(RemoteEvents(BufReader::new(stream).lines()))
    }
}
