//! `ghostd wallet`.

mod events;
mod link;
mod passphrase;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use ghost_proto::{Address, Multiaddr};
use ghost_wallet_channel::{
    keys::WalletKeys,
    keystore::Cost,
    secret::Secret,
    session::{Event, What},
};
use serde_json::{Value, json};

use self::link::{Link, with_wallet};
use super::{
    Globals,
    output::{Failure, Out},
    parse_duration,
};
use crate::{
    config::parse_node,
    home::fresh_key,
    wallet::{Ask, WalletFolder, socket},
};

const EXAMPLES: &str = "\
Examples:
  export GHOSTD_WALLET_PASSPHRASE='correct horse battery staple'
  ghostd wallet new --home a                        a wallet in a/wallet
  ghostd wallet channel listen --home a             stays; prints what comes; other commands ask it
  ghostd wallet status --home a                     its name, to give to others: KEY@MULTIADDR
  ghostd wallet channel open --home a PEER --wait 30s
  ghostd wallet channel send --home a PEER 'two coffees?' --wait 30s
  ghostd wallet channel send --home a PEER --file photos.tar --wait 5m
  ghostd wallet channel request --home a PEER 250 --memo 'two coffees'
  ghostd wallet channel pay --home b REQUEST --wait 60s
  ghostd wallet multisig new --home a --threshold 2 PEER PEER

A wallet needs a node, not a home: --wallet DIR --node MULTIADDR do as well. The passphrase is that of
--passphrase-file, else $GHOSTD_WALLET_PASSPHRASE, else it is asked for. One wallet, one device: never run two copies
of a wallet's directory, and never put an old copy back; to move, copy all of it while no process has it open.";

/// `ghostd wallet`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct WalletArgs {
    #[command(flatten)]
    pub(super) place: Place,
    #[command(subcommand)]
    command: WalletCommand,
}

/// Where the wallet is.
#[derive(Debug, Clone, Args)]
pub(super) struct Place {
    /// The wallet's directory [default: wallet/ in the home]
    #[arg(long, global = true, value_name = "DIR")]
    wallet: Option<PathBuf>,
    /// A file whose first line is the passphrase
    #[arg(long, global = true, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// A node that keeps this wallet's mail, up to three [default: those it has, else the node it uses]
    #[arg(long = "mailbox", global = true, value_name = "MULTIADDR", value_parser = parse_node)]
    mailboxes: Vec<Multiaddr>,
    /// What a stranger's first message must cost: leading zero bits of a stamp
    #[arg(long, global = true, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u8).range(8..=28))]
    stamp_bits: u8,
    /// Largest file that is taken from a peer
    #[arg(long, global = true, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    file_mib_max: u64,
}

impl Place {
    fn folder(&self, globals: &Globals) -> WalletFolder {
        WalletFolder::at(self.wallet.clone().unwrap_or_else(|| globals.home_root().join("wallet")))
    }
}

#[derive(Debug, Subcommand)]
enum WalletCommand {
    /// Make a wallet: a seed, sealed with a passphrase
    New {
        /// Restore from a seed: a file of 64 hex digits. Channels are not part of it
        #[arg(long, value_name = "FILE")]
        seed_file: Option<PathBuf>,
    },
    /// The account it pays from and is paid at
    Address,
    /// Its name for others, its account, its mailboxes
    Status,
    /// Pay an account, without a channel
    Send {
        /// The receiving account
        #[arg(long, value_name = "ADDRESS")]
        to: Address,
        /// Base units to move
        #[arg(long, value_name = "N")]
        value: u128,
        #[command(flatten)]
        wait: Wait,
    },
    /// Talk to another wallet: sealed end to end, kept by mailbox nodes while it is away
    Channel {
        #[command(subcommand)]
        command: ChannelCommand,
    },
    /// Sign together: k of n wallets make one key and pay from its account
    Multisig {
        #[command(subcommand)]
        command: MultisigCommand,
    },
}

#[derive(Debug, Clone, Args)]
struct Wait {
    /// Wait so long for what is meant to come of it
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
}

#[derive(Debug, Subcommand)]
enum ChannelCommand {
    /// Keep the wallet open: print what comes, answer other commands, until Ctrl-C
    Listen,
    /// Open a channel to a wallet
    Open {
        /// KEY, KEY@MULTIADDR, or an invitation
        peer: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Say something, or send a file
    Send {
        /// The peer's key
        peer: String,
        /// What to say
        #[arg(required_unless_present = "file", conflicts_with = "file")]
        text: Option<String>,
        /// A file to send
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Ask a peer to pay
    Request {
        /// The peer's key
        peer: String,
        /// Base units
        value: u128,
        /// What for
        #[arg(long, value_name = "TEXT", default_value = "")]
        memo: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Pay what a peer asked for; with --wait, until the peer has confirmed it
    Pay {
        /// The request's id, as `requests` shows it
        request: String,
        /// A word with it
        #[arg(long, value_name = "TEXT", default_value = "")]
        memo: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// All channels
    List,
    /// Who asked whom to pay what
    Requests,
    /// What was paid
    Payments,
    /// Files that are under way
    Files,
    /// What has happened
    History {
        /// Begin with this event
        #[arg(long, value_name = "N", default_value_t = 0)]
        after: u64,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u64,
    },
    /// Make an invitation: who has it opens a channel without a stamp, until it is taken back
    Invite {
        /// Take all invitations back instead
        #[arg(long)]
        take_back: bool,
    },
    /// Forget a channel and all that waits in it
    Close {
        /// The peer's key
        peer: String,
    },
}

#[derive(Debug, Subcommand)]
enum MultisigCommand {
    /// Found a group with others
    New {
        /// How many must sign
        #[arg(long, value_name = "K")]
        threshold: u16,
        /// What it is called
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
        /// The other members, by key or KEY@MULTIADDR
        #[arg(required = true, num_args = 1..=15)]
        peers: Vec<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Accept an invitation to a group
    Join {
        /// The group's id
        group: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// Propose that the group pays
    Propose {
        /// The group's id
        group: String,
        /// The receiving account
        #[arg(long, value_name = "ADDRESS")]
        to: Address,
        /// Base units to move
        #[arg(long, value_name = "N")]
        value: u128,
        #[command(flatten)]
        wait: Wait,
    },
    /// Approve what a member proposed
    Approve {
        /// The group's id
        group: String,
        /// The proposal's id
        proposal: String,
        #[command(flatten)]
        wait: Wait,
    },
    /// All groups and their proposals
    List,
}

pub(super) async fn run(globals: &Globals, args: WalletArgs, out: &Out) -> Result<ExitCode, Failure> {
    let place = &args.place;
    match args.command {
        WalletCommand::New { seed_file } => new(globals, place, seed_file, out),
        WalletCommand::Address => address(globals, place, out).await,
        WalletCommand::Channel { command: ChannelCommand::Listen } => listen(globals, place, out).await,
        command => {
            let (ask, wait) = asked(command);
            let wanted = wanted(&ask);
            with_wallet(globals, place, async |link: &Link| act(link, ask, wait, wanted, out).await).await
        }
    }
}

/// What a command asks of the wallet, and how long it waits for what comes of it.
fn asked(command: WalletCommand) -> (Ask, Option<Duration>) {
    use ChannelCommand as C;
    use MultisigCommand as M;
    match command {
        WalletCommand::Status => (Ask::Status, None),
        WalletCommand::Send { to, value, wait } => (Ask::Send { to, value: value.to_string() }, wait.wait),
        WalletCommand::Channel { command } => match command {
            C::Open { peer, wait } => (Ask::Open { peer, invitation: None }, wait.wait),
            C::Send { peer, text: Some(text), wait, .. } => (Ask::Say { peer, text }, wait.wait),
            C::Send { peer, file, wait, .. } => {
                let path = file.unwrap_or_default().display().to_string();
                (Ask::File { peer, path }, wait.wait)
            }
            C::Request { peer, value, memo, wait } => {
                (Ask::Request { peer, value: value.to_string(), memo }, wait.wait)
            }
            C::Pay { request, memo, wait } => (Ask::Pay { request, memo }, wait.wait),
            C::List => (Ask::Channels, None),
            C::Requests => (Ask::Requests, None),
            C::Payments => (Ask::Payments, None),
            C::Files => (Ask::Files, None),
            C::History { after, limit } => (Ask::History { after, limit }, None),
            C::Invite { take_back: false } => (Ask::Invite, None),
            C::Invite { take_back: true } => (Ask::Uninvite, None),
            C::Close { peer } => (Ask::Close { peer }, None),
            C::Listen => (Ask::Status, None),
        },
        WalletCommand::Multisig { command } => match command {
            M::New { threshold, label, peers, wait } => {
                (Ask::GroupNew { label, threshold, members: peers }, wait.wait)
            }
            M::Join { group, wait } => (Ask::GroupJoin { group }, wait.wait),
            M::Propose { group, to, value, wait } => {
                (Ask::GroupPropose { group, to, value: value.to_string() }, wait.wait)
            }
            M::Approve { group, proposal, wait } => (Ask::GroupApprove { group, proposal }, wait.wait),
            M::List => (Ask::Groups, None),
        },
        WalletCommand::New { .. } | WalletCommand::Address => (Ask::Status, None),
    }
}

/// Which event a command waits for, given the answer to it.
type Wanted = fn(&Value, &Event) -> Option<Result<(), String>>;

fn wanted(ask: &Ask) -> Wanted {
    fn is_peer(answer: &Value, event: &Event) -> bool {
        event.peer.is_some_and(|peer| answer["peer"] == peer.to_string())
    }
    fn group_failed(answer: &Value, event: &Event) -> Option<Result<(), String>> {
        use ghost_wallet_channel::session::GroupWord;
        match &event.what {
            What::Group { group, word: GroupWord::Failed { reason } } if answer["group"] == **group => {
                Some(Err(reason.clone()))
            }
            _ => None,
        }
    }
    match ask {
        Ask::Open { .. } => |answer, event| match &event.what {
            What::ChannelOpened { .. } if is_peer(answer, event) => Some(Ok(())),
            _ => None,
        },
        Ask::Say { .. } => |answer, event| match &event.what {
            What::Acknowledged { up_to } if is_peer(answer, event) => {
                (*up_to >= answer["number"].as_u64()?).then_some(Ok(()))
            }
            _ => None,
        },
        Ask::File { .. } => |answer, event| match &event.what {
            What::FileDone { file, sent: true, .. } if answer["file"] == **file => Some(Ok(())),
            What::FileFailed { file, reason, .. } if answer["file"] == **file => Some(Err(reason.clone())),
            _ => None,
        },
        Ask::Request { .. } => |answer, event| match &event.what {
            What::PaymentReceived { request, accepted, .. } if answer["request"] == **request => {
                Some(accepted.then_some(()).ok_or_else(|| "the payment is not what was asked for".into()))
            }
            _ => None,
        },
        Ask::Pay { .. } => |answer, event| match &event.what {
            What::PaymentConfirmed { transaction, accepted, .. }
                if answer["transaction"] == **transaction =>
            {
                Some(accepted.then_some(()).ok_or_else(|| "the peer does not accept it".into()))
            }
            _ => None,
        },
        Ask::Send { .. } => |answer, event| match &event.what {
            What::TransactionSeen { transaction, success, .. } if answer["transaction"] == **transaction => {
                Some(success.then_some(()).ok_or_else(|| "it stands in a block and failed".into()))
            }
            _ => None,
        },
        Ask::GroupNew { .. } | Ask::GroupJoin { .. } => |answer, event| {
            use ghost_wallet_channel::session::GroupWord;
            match &event.what {
                What::Group { group, word: GroupWord::Ready { .. } } if answer["group"] == **group => {
                    Some(Ok(()))
                }
                _ => group_failed(answer, event),
            }
        },
        Ask::GroupPropose { .. } | Ask::GroupApprove { .. } => |answer, event| {
            use ghost_wallet_channel::session::GroupWord;
            match &event.what {
                What::Group { word: GroupWord::Signed { proposal, .. }, .. }
                    if answer["proposal"] == **proposal =>
                {
                    Some(Ok(()))
                }
                _ => group_failed(answer, event),
            }
        },
        _ => |_, _| None,
    }
}

async fn act(
    link: &Link,
    ask: Ask,
    wait: Option<Duration>,
    wanted: Wanted,
    out: &Out,
) -> Result<ExitCode, Failure> {
    let mut events = link.events().await?;
    let mut answer = link.ask(ask).await?;
    let opened_before = answer["stage"] == "known";
    if let Some(patience) = wait.filter(|_| !opened_before) {
        let waiting = async {
            loop {
                let event = events.next().await.ok_or_else(|| Failure::new("the wallet has been closed"))?;
                if matches!(event.what, What::FileProgress { .. }) {
                    out.remark(events::text(&event));
                }
                match wanted(&answer, &event) {
                    Some(Ok(())) => return Ok(event),
                    Some(Err(reason)) => return Err(Failure::new(reason)),
                    None => {}
                }
            }
        };
        let event = match tokio::time::timeout(patience, waiting).await {
            Ok(event) => event?,
            Err(_) => {
                let failure = Failure::new("it was taken, and nothing has come of it yet")
                    .hint("it goes on: ghostd wallet channel listen shows what comes")
                    .with("answer", answer);
                return Err(failure);
            }
        };
        if matches!(event.what, What::ChannelOpened { .. }) {
            answer["stage"] = json!("open");
        }
        answer["event"] = serde_json::to_value(&event)?;
    }
    let text = events::answer_text(&answer);
    out.answer(&answer, text)
}

fn new(globals: &Globals, place: &Place, seed_file: Option<PathBuf>, out: &Out) -> Result<ExitCode, Failure> {
    let folder = place.folder(globals);
    let seed = match seed_file {
        Some(file) => Secret::new(*crate::home::read_key_file(&file)?.seed()),
        None => Secret::new(*fresh_key()?.seed()),
    };
    let phrase = passphrase::choose(place.passphrase_file.as_deref())?;
    folder.create(&seed, &phrase, Cost::default())?;
    let keys = WalletKeys::from_seed(seed);
    let value = json!({
        "wallet": keys.wallet(),
        "address": keys.address().to_string(),
        "keystore": folder.keystore_path(),
    });
    out.remark("next: ghostd wallet channel listen");
    out.answer(&value, format!("wallet   {}\naddress  {}", keys.wallet(), keys.address()))
}

async fn address(globals: &Globals, place: &Place, out: &Out) -> Result<ExitCode, Failure> {
    let folder = place.folder(globals);
    let (wallet, address) = match socket::Remote::connect(&folder.socket_path()).await {
        Some(remote) => {
            let status = remote.ask(&Ask::Status).await.map_err(Failure::new)?;
            let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
            (text("wallet"), text("address"))
        }
        None => {
            folder.wallet()?;
            let phrase = passphrase::known(place.passphrase_file.as_deref())?;
            let keys = WalletKeys::from_seed(folder.unlock(&phrase)?);
            (keys.wallet().to_string(), keys.address().to_string())
        }
    };
    out.answer(&json!({ "wallet": wallet, "address": address }), &address)
}

async fn listen(globals: &Globals, place: &Place, out: &Out) -> Result<ExitCode, Failure> {
    with_wallet(globals, place, async |link: &Link| {
        let mut events = link.events().await?;
        let _serving = link.serve(&place.folder(globals))?;
        let mut status = link.ask(Ask::Status).await?;
        status["event"] = json!("listening");
        let name = status["name"].as_str().unwrap_or_default().to_owned();
        out.answer(&status, format!("listening; this wallet's name is\n  {name}"))?;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => {
                        out.answer(&serde_json::to_value(&event)?, events::text(&event))?;
                    }
                    None => return Ok(ExitCode::SUCCESS),
                },
                _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
                () = terminated() => return Ok(ExitCode::SUCCESS),
            }
        }
    })
    .await
}

async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}
