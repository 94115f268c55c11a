//! Ctrl-C, SIGTERM and SIGHUP.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use ghost_node::cli::output::Failure;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Whether someone asked this program to stop. The first signal asks, a second one ends the process at
/// once; its nodes notice by themselves (see [`crate::up::child`]).
#[derive(Debug, Clone)]
pub struct Stop {
    asked: watch::Receiver<bool>,
    leaves: Arc<Mutex<Option<PathBuf>>>,
}

impl Stop {
    /// Listens from now on. Must be called inside a tokio runtime.
    pub fn listen() -> Result<Self, Failure> {
        let (ask, asked) = watch::channel(false);
        let leaves: Arc<Mutex<Option<PathBuf>>> = Arc::default();
        let left = leaves.clone();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                if ask.send_replace(true) {
                    // What the first signal would have cleaned up.
                    if let Some(path) = left.lock().ok().and_then(|mut left| left.take())
                        && path.exists()
                    {
                        let _ = writeln!(io::stderr(), "stopped at once; {} is left behind", path.display());
                    }
                    std::process::exit(130);
                }
            }
        });
        Ok(Self { asked, leaves })
    }

    /// What is left behind if a second signal ends the process at once; that is told then.
    pub fn would_leave(&self, path: &Path) {
        if let Ok(mut leaves) = self.leaves.lock() {
            *leaves = Some(path.to_owned());
        }
    }

    /// True once it was asked.
    pub fn is_asked(&self) -> bool {
        *self.asked.borrow()
    }

    /// Returns when it is asked, at once if it was.
    pub async fn asked(&self) {
        let mut asked = self.asked.clone();
        if asked.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits; `false` if it was asked to stop before the time was over.
    pub async fn sleep(&self, duration: std::time::Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(duration) => true,
            () = self.asked() => false,
        }
    }
}
