//! The wallet a command talks to: opened here, or open in another process.

use ghost_proto::Multiaddr;
use tokio::{sync::broadcast, task::JoinHandle, time::timeout};
use zeroize::Zeroizing;

use super::{Place, passphrase};
use crate::{
    cli::{Globals, connect::node_addresses, output::Failure},
    wallet::{
        Ask, WalletConfig, WalletFolder, Walletd,
        daemon::WalletEvent,
        socket::{self, Remote, RemoteEvents},
    },
};

/// A wallet to ask.
pub(super) enum Link {
    Own(Walletd),
    Remote(Remote),
}

/// What happens in it.
pub(super) enum Events {
    Own(broadcast::Receiver<WalletEvent>),
    Remote(RemoteEvents),
}

impl Events {
    /// The next event; `None` when the wallet closes.
    pub(super) async fn next(&mut self) -> Option<WalletEvent> {
        match self {
            Self::Own(events) => loop {
                match events.recv().await {
                    Ok(event) => return Some(event),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            },
            Self::Remote(events) => events.next().await,
        }
    }
}

/// Takes the socket away again.
pub(super) struct Serving(std::path::PathBuf, JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.1.abort();
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Link {
    pub(super) async fn ask(&self, ask: Ask) -> Result<serde_json::Value, Failure> {
        match self {
            Self::Own(wallet) => wallet.ask(ask).await,
            Self::Remote(remote) => remote.ask(&ask).await,
        }
        .map_err(Failure::new)
    }

    pub(super) async fn events(&self) -> Result<Events, Failure> {
        Ok(match self {
            Self::Own(wallet) => Events::Own(wallet.events()),
            Self::Remote(remote) => Events::Remote(remote.events().await?),
        })
    }

    /// Lets other processes ask it, if it is open here.
    pub(super) fn serve(&self, folder: &WalletFolder) -> Result<Option<Serving>, Failure> {
        match self {
            Self::Own(wallet) => {
                let path = folder.socket_path();
                let task = socket::serve(&path, wallet)
                    .map_err(|error| Failure::new(format!("cannot listen on {}: {error}", path.display())))?;
                Ok(Some(Serving(path, task)))
            }
            Self::Remote(_) => Ok(None),
        }
    }
}

/// Where others reach the node, if it says so; else the address it was reached at.
async fn mailbox_of(globals: &Globals, nodes: &[Multiaddr]) -> Vec<Multiaddr> {
    let key = crate::home::fresh_key().ok();
    let Some(key) = key else { return Vec::new() };
    let Ok((client, address)) = crate::cli::connect::dial(&key, nodes, globals.timeout).await else {
        return Vec::new();
    };
    let status = client.status().await;
    client.close().await;
    let peer = address.iter().last();
    let external = status.ok().and_then(|status| status.external_address.parse::<Multiaddr>().ok());
    match (external.filter(|external| !external.is_empty()), peer) {
        (Some(external), Some(peer @ multiaddr::Protocol::P2p(_))) => {
            let bare: Multiaddr =
                external.iter().filter(|part| !matches!(part, multiaddr::Protocol::P2p(_))).collect();
            vec![bare.with(peer)]
        }
        _ => vec![address],
    }
}

/// Opens the wallet, or finds who has it open, puts a question, and closes it again in order.
pub(super) async fn with_wallet<T>(
    globals: &Globals,
    place: &Place,
    question: impl AsyncFnOnce(&Link) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let folder = place.folder(globals);
    if let Some(remote) = Remote::connect(&folder.socket_path()).await {
        return question(&Link::Remote(remote)).await;
    }
    folder.wallet()?;
    let nodes = node_addresses(globals)?;
    let phrase: Zeroizing<String> = passphrase::known(place.passphrase_file.as_deref())?;
    let seed = folder.unlock(&phrase)?;
    let fresh = !folder.state_path().exists();
    let mailboxes = match place.mailboxes.is_empty() && fresh {
        true => mailbox_of(globals, &nodes).await,
        false => place.mailboxes.clone(),
    };
    let config = WalletConfig {
        folder,
        nodes,
        mailboxes,
        stamp_bits: place.stamp_bits,
        timeout: globals.timeout,
        file_bytes_max: place.file_mib_max << 20,
    };
    let link = Link::Own(Walletd::open(config, seed)?);
    if let Link::Own(wallet) = &link {
        // Not in vain without one: what is asked may need no mailbox, and what does is tried again.
        wallet.ready(globals.timeout).await;
    }
    let answer = question(&link).await;
    if let Link::Own(wallet) = link {
        if answer.is_ok() {
            let _ = timeout(globals.timeout, wallet.ask(Ask::Settle)).await;
        }
        let closed = wallet.close().await;
        if answer.is_ok() {
            closed?;
        }
    }
    answer
}
