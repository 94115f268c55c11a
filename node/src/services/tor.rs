//! Tor for this node: which way it is reached, whether it works, and what comes in through it.
//!
//! Fails closed: whatever does not work here, nothing is sent another way instead. `status` and `doctor` say
//! what does not.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ghost_proto::message;
#[cfg(feature = "tor")]
use ghost_protocol::transport::tor::{Arti, ArtiConfig, Hosted};
use ghost_protocol::{
    Identity, Overlay,
    transport::{
        Carrier, Onion, Remote,
        stream::BoxedStream,
        tor::{Progress, SocksCarrier},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::config::TorMode;

/// How often a daemon's port is tried: one connection on loopback.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Time a daemon on this machine has to answer.
const LOOK_TIME: Duration = Duration::from_secs(3);

/// Streams from behind Tor whose handshake may be under way.
const HANDSHAKES_MAX: usize = 128;

/// What a node is behind Tor.
#[derive(Debug)]
pub struct TorParts {
    /// What Tor is used for; never "off".
    pub mode: TorMode,
    /// Who it is there.
    pub identity: Identity,
    /// How Tor is reached.
    pub way: TorWay,
    /// Be reachable there, at this port.
    pub host: Option<u16>,
}

/// How Tor is reached.
#[derive(Debug)]
pub enum TorWay {
    /// Through a daemon.
    Daemon {
        /// Its SOCKS5 port.
        socks: SocketAddr,
        /// The onion service that it forwards here, if it does.
        onion: Option<Onion>,
        /// Where it forwards to.
        forward: Option<SocketAddr>,
    },
    /// By itself.
    #[cfg(feature = "tor")]
    Own(ArtiConfig),
}

enum Runs {
    Daemon {
        progress: watch::Receiver<Progress>,
        looking: JoinHandle<()>,
    },
    #[cfg(feature = "tor")]
    Own {
        arti: Arc<Arti>,
        hosted: Option<Hosted>,
    },
}

/// Tor as it runs.
pub(crate) struct Tor {
    mode: TorMode,
    runs: Runs,
    accepting: Option<JoinHandle<()>>,
    onion: Option<Onion>,
    identity: Identity,
    pub(crate) carrier: Arc<dyn Carrier>,
}

impl Drop for Tor {
    fn drop(&mut self) {
        match &self.runs {
            Runs::Daemon { looking, .. } => looking.abort(),
            #[cfg(feature = "tor")]
            Runs::Own { .. } => {}
        }
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// What came in, until the overlay is there to take it.
pub(crate) type Arriving = tokio::sync::mpsc::Receiver<BoxedStream>;

impl Tor {
    /// Starts it. `secret` keeps what this process asks of a daemon apart from what others ask. What comes in
    /// is given to the receiver, and dropped while nobody takes it.
    pub(crate) async fn start(parts: TorParts, secret: [u8; 32]) -> io::Result<(Self, Arriving)> {
        let (arrived, arriving) = tokio::sync::mpsc::channel(HANDSHAKES_MAX);
        let TorParts { mode, identity, way, host } = parts;
        let tor = match way {
            TorWay::Daemon { socks, onion, forward } => {
                let (told, progress) = watch::channel(Progress::default());
                let looking = tokio::spawn(look(socks, told));
                let accepting = match (host, forward) {
                    (Some(_), Some(forward)) => {
                        let listener = TcpListener::bind(forward).await?;
                        Some(tokio::spawn(async move {
                            loop {
                                match listener.accept().await {
                                    Ok((stream, _)) => {
                                        drop(arrived.try_send(Box::new(stream) as BoxedStream))
                                    }
                                    // Descriptors have run out, as a rule: some come back.
                                    Err(_) => sleep(Duration::from_millis(100)).await,
                                }
                            }
                        }))
                    }
                    _ => None,
                };
                let onion = onion.filter(|_| accepting.is_some());
                let carrier = Arc::new(SocksCarrier::new(socks, secret));
                Self { mode, runs: Runs::Daemon { progress, looking }, accepting, onion, identity, carrier }
            }
            #[cfg(feature = "tor")]
            TorWay::Own(config) => {
                let arti = Arc::new(Arti::start(&config)?);
                let hosted = match host {
                    Some(port) => Some(arti.host(port, move |stream| drop(arrived.try_send(stream)))?),
                    None => None,
                };
                let onion = hosted.as_ref().map(Hosted::onion);
                let carrier = arti.clone();
                Self { mode, runs: Runs::Own { arti, hosted }, accepting: None, onion, identity, carrier }
            }
        };
        Ok((tor, arriving))
    }

    /// Who the node is behind Tor.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where others reach it.
    pub(crate) fn onion(&self) -> Option<Onion> {
        self.onion
    }

    /// Whether streams can be opened now.
    pub(crate) fn is_ready(&self) -> bool {
        self.progress().ready
    }

    fn progress(&self) -> Progress {
        match &self.runs {
            Runs::Daemon { progress, .. } => progress.borrow().clone(),
            #[cfg(feature = "tor")]
            Runs::Own { arti, .. } => arti.progress(),
        }
    }

    /// For `status`.
    pub(crate) fn status(&self) -> message::TorStatus {
        let progress = self.progress();
        let service = match (&self.runs, self.onion) {
            (_, None) => String::new(),
            (Runs::Daemon { .. }, Some(_)) => "forwarded by the daemon".into(),
            #[cfg(feature = "tor")]
            (Runs::Own { hosted, .. }, Some(_)) => {
                hosted.as_ref().map(Hosted::state).unwrap_or_default().into()
            }
        };
        message::TorStatus {
            mode: self.mode.name().into(),
            ready: progress.ready,
            percent: progress.percent.into(),
            detail: progress.detail,
            onion: self
                .onion
                .map(|onion| {
                    ghost_protocol::address::with_peer(onion.to_multiaddr(), self.identity.peer_id())
                        .to_string()
                })
                .unwrap_or_default(),
            service,
        }
    }

    /// What the operator should know, if Tor does not work.
    pub(crate) fn alarm(&self) -> Option<String> {
        let Progress { percent, ready, detail } = self.progress();
        let meanwhile = match self.mode {
            TorMode::Only => {
                "tor.mode is \"only\", so this node has no peers and sends nothing until it does"
            }
            TorMode::Also | TorMode::Off => "peers over IP are not affected",
        };
        (!ready).then(|| format!("Tor does not work ({percent} %): {detail}; {meanwhile}"))
    }
}

/// Takes in what comes through Tor, for as long as the node runs.
pub(crate) async fn accept(overlay: Overlay, mut arriving: Arriving) {
    let places = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES_MAX));
    while let Some(stream) = arriving.recv().await {
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let overlay = overlay.clone();
        tokio::spawn(async move {
            overlay.accept_stream(stream, Remote::Tor).await;
            drop(place);
        });
    }
    // A node that hosts nothing waits here, as one that does.
    std::future::pending().await
}

/// Looks whether a daemon is there. Whether it has reached its network shows when somebody is dialled.
async fn look(socks: SocketAddr, told: watch::Sender<Progress>) {
    loop {
        let progress = match timeout(LOOK_TIME, TcpStream::connect(socks)).await {
            Ok(Ok(_)) => {
                Progress { percent: 100, ready: true, detail: format!("a daemon answers at {socks}") }
            }
            Ok(Err(error)) => Progress {
                percent: 0,
                ready: false,
                detail: format!("no tor daemon answers at {socks}: {error}"),
            },
            Err(_) => Progress { percent: 0, ready: false, detail: format!("{socks} does not answer") },
        };
        told.send_replace(progress);
        sleep(LOOK_EVERY).await;
    }
}
