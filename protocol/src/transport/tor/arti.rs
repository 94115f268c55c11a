//! Tor in this process, by `arti`.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use arti_client::{
    StreamPrefs, TorClient, TorClientConfig,
    config::{CfgPath, TorClientConfigBuilder},
    isolation::IsolationHelper,
};
use futures_util::StreamExt;
use safelog::DisplayRedacted;
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tor_cell::relaycell::msg::{Connected, End, EndReason};
use tor_hsservice::{RunningOnionService, config::OnionServiceConfigBuilder, status::State};
use tor_proto::stream::IncomingStreamRequest;
use tor_rtcompat::PreferredRuntime;

use super::Progress;
use crate::transport::{Carrier, Connecting, Isolation, Onion, stream::BoxedStream};

/// Between two tries to begin, when one came to nothing.
const BEGIN_AGAIN: Duration = Duration::from_secs(5);

/// Where Tor keeps what it must not forget, and what differs from its defaults.
#[derive(Debug, Clone, Default)]
pub struct ArtiConfig {
    /// Keys of onion services, guards. Only its owner may read it.
    pub state_dir: PathBuf,
    /// The directory of the network.
    pub cache_dir: PathBuf,
    /// Settings of arti, as TOML: those of a private network, bridges, …
    pub settings: String,
}

/// A Tor client, and the onion services that it hosts.
pub struct Arti {
    client: Arc<TorClient<PreferredRuntime>>,
    progress: watch::Receiver<Progress>,
    beginning: JoinHandle<()>,
}

impl std::fmt::Debug for Arti {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arti").field("progress", &*self.progress.borrow()).finish_non_exhaustive()
    }
}

impl Drop for Arti {
    fn drop(&mut self) {
        self.beginning.abort();
    }
}

/// An onion service that is hosted. Dropped, it goes.
pub struct Hosted {
    service: Arc<RunningOnionService>,
    accepting: JoinHandle<()>,
    onion: Onion,
}

impl std::fmt::Debug for Hosted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosted").field("onion", &self.onion).finish_non_exhaustive()
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Hosted {
    /// Its address.
    pub fn onion(&self) -> Onion {
        self.onion
    }

    /// For people: how far its publication is.
    pub fn state(&self) -> &'static str {
        match self.service.status().state() {
            State::Running | State::DegradedReachable => "published",
            State::Bootstrapping => "being published",
            State::Recovering | State::DegradedUnreachable => "hard to reach",
            State::Shutdown => "not running",
            State::Broken => "broken",
            _ => "unknown",
        }
    }
}

/// Two streams share a circuit only if they are of one isolation.
#[derive(Debug, Clone, PartialEq)]
struct Apart(Isolation);

impl IsolationHelper for Apart {
    fn compatible_same_type(&self, other: &Self) -> bool {
        self == other
    }

    fn join_same_type(&self, other: &Self) -> Option<Self> {
        (self == other).then(|| self.clone())
    }
}

fn config(config: &ArtiConfig) -> Result<TorClientConfig, String> {
    let mut builder: TorClientConfigBuilder =
        toml::from_str(&config.settings).map_err(|error| error.to_string())?;
    builder
        .storage()
        .state_dir(CfgPath::new_literal(&config.state_dir))
        .cache_dir(CfgPath::new_literal(&config.cache_dir));
    builder.build().map_err(|error| error.to_string())
}

impl Arti {
    /// Starts it, and goes on trying to begin for as long as this lives: [`Self::progress`] says how far it
    /// is. Must be called inside a tokio runtime.
    pub fn start(settings: &ArtiConfig) -> io::Result<Self> {
        // The library takes its cryptography from the process. Whoever was first chose the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config =
            config(settings).map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
        let runtime = PreferredRuntime::current()?;
        let client = TorClient::with_runtime(runtime)
            .config(config)
            .create_unbootstrapped()
            .map_err(|error| io::Error::other(error.to_string()))?;
        let (told, progress) = watch::channel(Progress::default());
        let beginning = tokio::spawn(begin(client.clone(), told));
        Ok(Self { client, progress, beginning })
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Waits until streams can be opened.
    pub async fn ready(&self) {
        // The sender goes only with this.
        let _ = self.progress.clone().wait_for(|progress| progress.ready).await;
    }

    /// Hosts an onion service with a key that is kept in the state directory; `port` is all it answers at.
    /// Streams go to `accept`.
    pub fn host(
        &self,
        port: u16,
        accept: impl Fn(BoxedStream) + Send + Sync + 'static,
    ) -> io::Result<Hosted> {
        let failed = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
        let nickname = "ghost".parse().map_err(|error| failed(&error))?;
        let config = OnionServiceConfigBuilder::default()
            .nickname(nickname)
            .build()
            .map_err(|error| failed(&error))?;
        let launched = self.client.launch_onion_service(config).map_err(|error| failed(&error))?;
        let (service, requests) = launched.ok_or_else(|| failed(&"onion services are disabled"))?;
        let address = service.onion_address().ok_or_else(|| failed(&"the onion service has no key"))?;
        let address = address.display_unredacted().to_string();
        let onion = Onion::of_host(&address, port)
            .ok_or_else(|| failed(&format!("{address} is no onion address")))?;
        let accepting = tokio::spawn(async move {
            let streams = tor_hsservice::handle_rend_requests(requests);
            tokio::pin!(streams);
            while let Some(request) = streams.next().await {
                let wanted =
                    matches!(request.request(), IncomingStreamRequest::Begin(begin) if begin.port() == port);
                if !wanted {
                    // Whoever tried is told what a closed port tells, and no more.
                    let _ = request.reject(End::new_with_reason(EndReason::DONE)).await;
                    continue;
                }
                match request.accept(Connected::new_empty()).await {
                    Ok(stream) => accept(Box::new(stream)),
                    Err(error) => tracing::debug!(%error, "a stream to the onion service failed"),
                }
            }
            tracing::warn!("the onion service has ended");
        });
        Ok(Hosted { service, accepting, onion })
    }
}

/// Bootstraps until it works, saying how far it is.
async fn begin(client: Arc<TorClient<PreferredRuntime>>, told: watch::Sender<Progress>) {
    let mut events = client.bootstrap_events();
    let tell = |failure: Option<&str>| {
        let status = client.bootstrap_status();
        let detail = match (failure, status.blocked()) {
            (_, Some(blocked)) => format!("Tor is stuck: {blocked}"),
            (Some(failure), None) => format!("Tor does not begin: {failure}"),
            (None, None) => status.to_string(),
        };
        let ready = status.ready_for_traffic();
        let percent = (status.as_frac() * 100.0) as u8;
        told.send_replace(Progress { percent, ready, detail });
    };
    let mut failure: Option<String> = None;
    loop {
        let begun = client.bootstrap();
        tokio::pin!(begun);
        let result = loop {
            tell(failure.as_deref());
            tokio::select! {
                result = &mut begun => break result,
                Some(_) = events.next() => {}
            }
        };
        match result {
            Ok(()) => break,
            Err(error) => {
                let text = error.to_string();
                tracing::debug!(%text, "Tor did not begin");
                failure = Some(text);
                tell(failure.as_deref());
                sleep(BEGIN_AGAIN).await;
            }
        }
    }
    tell(None);
    while events.next().await.is_some() {
        tell(None);
    }
}

impl Carrier for Arti {
    fn connect(&self, onion: Onion, isolation: Isolation) -> Connecting<'_> {
        Box::pin(async move {
            let progress = self.progress();
            if !progress.ready {
                return Err(io::Error::new(io::ErrorKind::NotConnected, progress.detail));
            }
            let mut prefs = StreamPrefs::new();
            prefs.set_isolation(Apart(isolation));
            let connect = self.client.connect_with_prefs((onion.host(), onion.port), &prefs);
            let stream = connect.await.map_err(|error| io::Error::other(error.to_string()))?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }
}
