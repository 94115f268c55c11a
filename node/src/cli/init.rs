//! `ghostd init`.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use ghost_proto::{
    AuthoritySet, Genesis, KeyPair, Multiaddr,
    limits::{CHAIN_NAME_BYTES_MAX, SLOT_MS_MAX, SLOT_MS_MIN},
    record,
};
use serde_json::json;

use super::{
    Globals,
    output::{Failure, Out, unix_ms_now},
};
use crate::{
    config::{commented_file, parse_listen},
    home::{Contents, Home, fresh_key, read_genesis},
};

/// What the one account of a development chain owns: 10^27 base units.
pub const DEVELOPMENT_BALANCE: u128 = 1_000_000_000_000_000_000_000_000_000;

/// Gas of a block on a development chain: 4,761 plain transfers, or 6 MiB of payload.
pub const DEVELOPMENT_BLOCK_GAS_MAX: u64 = 100_000_000;

/// Body bytes of a block on a development chain.
pub const DEVELOPMENT_BLOCK_BYTES_MAX: u64 = 4 << 20;

const EXAMPLES: &str = "\
Examples:
  ghostd init --home a                              a development chain of your own: this node is its one
                                                    authority, accounts/dev.key owns all the money
  ghostd init --home b --genesis a/genesis.toml     a node of that chain
  ghostd init --home c --genesis chain.toml --listen /ip4/127.0.0.1/udp/0/quic-v1

Nothing is ever overwritten. The PeerId is printed alone, so that a script can take it.";

/// `ghostd init`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct InitArgs {
    /// The chain to be of; without it, a development chain is made
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
    /// Where the node shall listen; may be given several times
    #[arg(long, value_name = "MULTIADDR", value_parser = parse_listen)]
    listen: Vec<Multiaddr>,
    /// Name of the development chain
    #[arg(long, value_name = "NAME", default_value = "ghost-dev", conflicts_with = "genesis",
          value_parser = chain_name)]
    chain_name: String,
    /// Slot length of the development chain, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1_000, conflicts_with = "genesis",
          value_parser = clap::value_parser!(u64).range(SLOT_MS_MIN..=SLOT_MS_MAX))]
    slot_ms: u64,
}

fn chain_name(text: &str) -> Result<String, String> {
    match text.len() {
        1..=CHAIN_NAME_BYTES_MAX => Ok(text.into()),
        bytes => Err(format!("a name has 1 to {CHAIN_NAME_BYTES_MAX} bytes, this one {bytes}")),
    }
}

pub(super) fn run(globals: &Globals, args: &InitArgs, out: &Out) -> Result<ExitCode, Failure> {
    if globals.node.is_some() {
        return Err(Failure::usage("init makes a home on this machine; --node has no meaning for it"));
    }
    let mut changed = Vec::new();
    if !args.listen.is_empty() {
        let list: Vec<String> = args.listen.iter().map(|address| format!("\"{address}\"")).collect();
        changed.push(("network.listen", format!("[{}]", list.join(", "))));
    }
    let (genesis, genesis_text, authority_key, accounts) = match &args.genesis {
        Some(path) => {
            let (genesis, text) = read_genesis(path)?;
            (genesis, text, None, Vec::new())
        }
        None => {
            let (authority, dev) = (fresh_key()?, fresh_key()?);
            let chain_id = u64::from(u32::from_be_bytes(fresh_key()?.seed()[..4].try_into()?)) + 1;
            let genesis = development_genesis(&args.chain_name, chain_id, args.slot_ms, &authority, &dev)?;
            changed.push(("chain.role", "\"authority\"".into()));
            let text = genesis.to_toml();
            (genesis, text, Some(authority), vec![("dev".to_owned(), dev)])
        }
    };
    let contents = Contents {
        config: commented_file(&changed),
        genesis: genesis_text,
        node_key: fresh_key()?,
        operator_key: fresh_key()?,
        authority_key,
        accounts,
    };
    let home = Home::create(globals.home_root(), &contents)?;
    let peer = record::peer_of(&contents.node_key.public())
        .ok_or_else(|| Failure::new("a fresh key is no curve point; run init again on an empty directory"))?;
    let root = home.root().display();
    let dev = contents.accounts.first().map(|(_, key)| key.address());
    let answer = out.answer(
        &json!({
            "peer_id": peer.to_string(),
            "home": home.root(),
            "genesis": genesis.id().to_string(),
            "chain_id": genesis.chain_id,
            "chain_name": genesis.name,
            "authority": contents.authority_key.is_some(),
            "dev_account": dev.map(|address| address.to_string()),
        }),
        peer,
    )?;
    match dev {
        Some(dev) => out.remark(format!(
            "made {root}: the only authority of the new chain `{}`; account {dev} owns all its money\n\
             next: ghostd run --home {root}\n\
             more nodes: ghostd init --home OTHER --genesis {root}/genesis.toml",
            genesis.name
        )),
        None => out.remark(format!(
            "made {root}: a node of chain `{}`\n\
             next: ghostd run --home {root} --peer MULTIADDR   (of any node of that chain)",
            genesis.name
        )),
    }
    Ok(answer)
}

/// A chain with one authority, whose money is in one account, and which begins now.
fn development_genesis(
    name: &str,
    chain_id: u64,
    slot_ms: u64,
    authority: &KeyPair,
    dev: &KeyPair,
) -> Result<Genesis, Failure> {
    let genesis = Genesis {
        name: name.into(),
        chain_id,
        time_unix_ms: unix_ms_now() / 1_000 * 1_000,
        slot_ms,
        gas_price_min: 1,
        block_gas_max: DEVELOPMENT_BLOCK_GAS_MAX,
        block_bytes_max: DEVELOPMENT_BLOCK_BYTES_MAX,
        authorities: AuthoritySet::new(vec![authority.public()])?,
        markets: Default::default(),
        allocation: [(dev.address(), DEVELOPMENT_BALANCE)].into(),
        feeds: Vec::new(),
    };
    // What the flags say is checked by the same rules as a file.
    Ok(Genesis::from_toml(&genesis.to_toml())?)
}
