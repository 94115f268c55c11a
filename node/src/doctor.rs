//! What can be wrong with a home, its machine and its node, and how to mend each.
//!
//! Checks change nothing, except that the one for the store opens it as the node would (which mends a
//! torn write), and only while no node runs there.

use std::{
    fs,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use ghost_proto::{Multiaddr, message, record};
use multiaddr::Protocol;
use rustix::{
    fs::statvfs,
    process::{Resource, getrlimit},
};

use crate::{
    chain::{LOST_BLOCKS, lost_blocks},
    cli::output::count_for_people,
    config::{Config, Role},
    home::{Home, HomeError, read_key_file},
    store::{CACHE_BYTES_DEFAULT, Records, SledStore, StoreError},
};

/// Least free space that is called enough: a day of full 4 MiB blocks each second takes 350 GB, an
/// ordinary day a few hundred MiB. Below this the node is hours from a full disk.
pub const DISK_FREE_BYTES_MIN: u64 = 1 << 30;

/// Least descriptors that are called enough: QUIC peers share one socket, so most are files of the
/// store (some dozens), metrics callers (16) and what the runtime needs.
pub const DESCRIPTORS_MIN: u64 = 256;

/// Clocks may differ by this much before it is called wrong, in milliseconds: half a slot of a usual
/// chain. A proposer that is off by a slot makes blocks that others hold back.
pub const CLOCK_AHEAD_MS_MAX: u64 = 500;

const LOST_BLOCKS_MEND: &str = "let the node fetch them from its peers (ghostd peers add MULTIADDR); if no peer has them, restore a copy of data/chain, or remove data/chain.mark to go on from what is there";

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing to do.
    Good,
    /// Works, and will hurt sooner or later.
    Warning,
    /// The node does not start, or does not do its work.
    Bad,
}

impl Verdict {
    /// The word in JSON and on the screen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Bad => "bad",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do; empty if nothing.
    pub mend: String,
}

impl Check {
    fn good(name: &'static str, seen: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, seen: seen.into(), mend: String::new() }
    }

    fn warning(name: &'static str, seen: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warning, seen: seen.into(), mend: mend.into() }
    }

    fn bad(name: &'static str, seen: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Bad, seen: seen.into(), mend: mend.into() }
    }

    /// Errors of a home carry what to do behind their first line.
    fn of_home(name: &'static str, error: &HomeError) -> Self {
        let text = error.to_string();
        let (seen, mend) = text.split_once("\n  ").unwrap_or((&text, "mend the file, or make a new home"));
        let mend = mend.strip_prefix("to mend: ").unwrap_or(mend);
        Self::bad(name, seen, mend.replace("\n  ", "; "))
    }
}

/// Settings of the home, as the node would read them.
pub fn config(home: &Home) -> (Check, Option<Config>) {
    match Config::load(&home.config_path()) {
        Ok(config) => {
            (Check::good("config", format!("{} is sound", home.config_path().display())), Some(config))
        }
        Err(error) => {
            let mend = "correct that line; ghostd init in an empty directory writes a file with every setting explained";
            (Check::bad("config", error.to_string(), mend), None)
        }
    }
}

/// Keys: there, secret, and the authority's one in the genesis.
pub fn keys(home: &Home, config: &Config) -> Check {
    let node = match home.node_key() {
        Ok(key) => key,
        Err(error) => return Check::of_home("keys", &error),
    };
    if let Err(error) = home.operator_key() {
        return Check::of_home("keys", &error);
    }
    let Some(peer) = record::peer_of(&node.public()) else {
        return Check::bad(
            "keys",
            "node.key is no ed25519 key",
            "make a new home, the node then has another PeerId",
        );
    };
    if let Ok(entries) = fs::read_dir(home.accounts_dir()) {
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_some_and(|extension| extension == "key")
                && let Err(error) = read_key_file(&path)
            {
                return Check::of_home("keys", &error);
            }
        }
    }
    if config.chain.role == Role::Authority {
        let path = home.resolve(&config.chain.authority_key);
        let key = match read_key_file(&path) {
            Ok(key) => key,
            Err(error) => return Check::of_home("keys", &error),
        };
        match home.genesis() {
            Ok(genesis) => match genesis.authorities.index_of(&key.public()) {
                Some(index) => return Check::good("keys", format!("node {peer}, authority {index}")),
                None => {
                    return Check::bad(
                        "keys",
                        format!("{} is no authority of this chain", path.display()),
                        "set chain.role to \"follower\", or put the right key there",
                    );
                }
            },
            Err(_) => return Check::good("keys", format!("node {peer}, with an authority's key")),
        }
    }
    // An emptied file of settings makes a follower of an authority, without a word.
    if let Ok(genesis) = home.genesis()
        && let Ok(key) = read_key_file(&home.resolve(&config.chain.authority_key))
        && let Some(index) = genesis.authorities.index_of(&key.public())
    {
        return Check::warning(
            "keys",
            format!(
                "the key of authority {index} is here, and chain.role is \"follower\": the node proposes nothing"
            ),
            "set chain.role to \"authority\", or move the key away",
        );
    }
    Check::good("keys", format!("node {peer}"))
}

/// The genesis: there, and sound.
pub fn genesis(home: &Home) -> Check {
    match home.genesis() {
        Ok(genesis) => Check::good("genesis", format!("chain `{}`, genesis {}", genesis.name, genesis.id())),
        Err(error) => Check::of_home("genesis", &error),
    }
}

/// The socket that an address stands for, if it is an IP address.
pub fn socket_of(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Udp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// What is known of the node of a home when its ports are looked at.
#[derive(Debug, Clone, Copy)]
pub enum Listening<'a> {
    /// None runs.
    NotRunning,
    /// One runs and says that it listens here.
    At(&'a [SocketAddr]),
    /// One runs and does not say where it listens.
    Unknown,
}

/// Whether the node could listen where it should, or does.
pub fn ports(config: &Config, node: Listening<'_>) -> Check {
    let sockets: Vec<SocketAddr> = config.network.listen.iter().filter_map(socket_of).collect();
    let mut seen = Vec::new();
    match node {
        Listening::NotRunning => {
            for socket in &sockets {
                if let Err(error) = UdpSocket::bind(socket) {
                    return port_taken("UDP", *socket, &error, "network.listen or --listen");
                }
                seen.push(format!("UDP {socket} is free"));
            }
        }
        Listening::At(at) => {
            // Port 0 stands for the one that the system chose.
            let is_at = |wanted: &SocketAddr| {
                at.iter().any(|at| at == wanted || (wanted.port() == 0 && at.ip() == wanted.ip()))
            };
            if let Some(missing) = sockets.iter().find(|socket| !is_at(socket)) {
                return Check::warning(
                    "ports",
                    format!("the node of this home does not listen on UDP {missing} but on {}", list(at)),
                    "it was started with other settings or flags; restart it without them to use these",
                );
            }
            if !at.is_empty() {
                seen.push(format!("this node listens on UDP {}", list(at)));
            }
        }
        Listening::Unknown => {
            return Check::warning(
                "ports",
                "a node runs and does not say where it listens",
                "see what is said about the node below",
            );
        }
    }
    if let Some(socket) = config.metrics.listen {
        match (TcpListener::bind(socket), node) {
            (Ok(_), Listening::NotRunning) => seen.push(format!("TCP {socket} is free")),
            (Ok(_), _) => {
                return Check::warning(
                    "ports",
                    format!("a node runs, and TCP {socket} of metrics.listen is free"),
                    "it was started with other settings or flags; restart it to use these",
                );
            }
            (Err(error), Listening::NotRunning) => {
                return port_taken("TCP", socket, &error, "metrics.listen");
            }
            // A node does not start without it, and does not tell that it has it.
            (Err(_), _) => {
                seen.push(format!("TCP {socket} is in use, by this node if it was started with it"))
            }
        }
    }
    if seen.is_empty() {
        return Check::warning(
            "ports",
            "listens nowhere",
            "others cannot dial this node; set network.listen if they should",
        );
    }
    Check::good("ports", seen.join(", "))
}

fn list(sockets: &[SocketAddr]) -> String {
    match sockets {
        [] => "nothing".into(),
        sockets => sockets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn port_taken(protocol: &str, socket: SocketAddr, error: &std::io::Error, setting: &str) -> Check {
    Check::bad(
        "ports",
        format!("{protocol} {socket}: {error}"),
        format!("stop what uses it (ss -lpn shows it), or set another address ({setting})"),
    )
}

/// The store: opens, or is in use by this node.
pub fn store(home: &Home, running: bool) -> Check {
    let path = home.data_dir();
    if running {
        return Check::good("store", format!("{} is in use by the running node", path.display()));
    }
    // The lock keeps a node from starting while the store is open here, and to take it is the first thing
    // that a node writes.
    let _lock = match home.lock() {
        Ok(lock) => lock,
        Err(error) => return Check::of_home("store", &error),
    };
    if !path.exists() {
        return Check::good("store", "not there yet; the first run makes it");
    }
    let mut seen = Vec::new();
    match lost_height(home) {
        Ok(None) => {}
        Ok(Some((stored, lost))) => {
            return Check::bad("store", lost_blocks(stored, lost), LOST_BLOCKS_MEND);
        }
        Err(error) => {
            return Check::bad(
                "store",
                error.to_string(),
                "what the message says; the node would stop with the same one",
            );
        }
    }
    for path in stores_in(&path) {
        let started = Instant::now();
        match sled::open(&path) {
            Ok(store) => {
                let size = store.size_on_disk().unwrap_or(0) >> 20;
                seen.push(format!(
                    "{} opens in {} ms, {size} MiB",
                    path.display(),
                    started.elapsed().as_millis()
                ));
            }
            Err(error) => {
                return Check::bad(
                    "store",
                    format!("{} does not open: {error}", path.display()),
                    format!(
                        "move it away (mv {0} {0}.broken) and let the node fetch the chain again from its peers",
                        path.display()
                    ),
                );
            }
        }
    }
    if seen.is_empty() {
        return Check::bad(
            "store",
            format!("{} holds no store", path.display()),
            format!("move it away (mv {0} {0}.broken); the next run makes a new one", path.display()),
        );
    }
    Check::good("store", seen.join(", "))
}

/// The directory itself or those directly in it that sled has marked as its own. Others are not
/// opened: sled would make a store of them.
/// Heights of the highest final block of the chain store, and of the one it had once, if that was higher.
fn lost_height(home: &Home) -> Result<Option<(u64, u64)>, StoreError> {
    let path = home.data_dir().join("chain");
    let Ok(genesis) = home.genesis() else { return Ok(None) };
    if !path.join("conf").is_file() {
        return Ok(None);
    }
    let records = Records::new(Arc::new(SledStore::open(&path, CACHE_BYTES_DEFAULT)?));
    let Some(mark) = records.mark(&genesis.id())? else { return Ok(None) };
    let stored =
        if records.check_identity(&genesis.id())? { records.finalized_checkpoint()?.height } else { 0 };
    Ok((mark.finalized.height > stored).then_some((stored, mark.finalized.height)))
}

fn stores_in(path: &Path) -> Vec<PathBuf> {
    let mut stores = vec![path.to_owned()];
    if let Ok(entries) = fs::read_dir(path) {
        stores.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
    }
    stores.retain(|path| path.join("conf").is_file());
    stores.sort();
    stores
}

/// Room on the disk of the store.
pub fn disk(home: &Home) -> Check {
    match free_bytes(home.root()) {
        Ok(free) => judge_disk(free),
        Err(error) => Check::warning("disk", format!("cannot be asked: {error}"), "look with df -h"),
    }
}

fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let stat = statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn judge_disk(free: u64) -> Check {
    let seen = format!("{} MiB free", free >> 20);
    if free < DISK_FREE_BYTES_MIN / 10 {
        Check::bad("disk", seen, "make room now: a node that cannot write stops")
    } else if free < DISK_FREE_BYTES_MIN {
        Check::warning("disk", seen, "make room: at least 1 GiB")
    } else {
        Check::good("disk", seen)
    }
}

/// How many descriptors a process may open.
pub fn descriptors() -> Check {
    judge_descriptors(getrlimit(Resource::Nofile).current)
}

fn judge_descriptors(limit: Option<u64>) -> Check {
    match limit {
        Some(limit) if limit < DESCRIPTORS_MIN => Check::warning(
            "descriptors",
            format!("a process may open {limit}"),
            format!("ulimit -n {}, or LimitNOFILE= in the service file", 4 * DESCRIPTORS_MIN),
        ),
        Some(limit) => Check::good("descriptors", format!("a process may open {limit}")),
        None => Check::good("descriptors", "a process may open any number"),
    }
}

/// This machine's clock by itself: not before this program was written, and not before the chain began.
pub fn clock(home: &Home, now_unix_ms: u64) -> Check {
    // 2025-01-01T00:00:00Z.
    const WRITTEN_UNIX_MS: u64 = 1_735_689_600_000;
    let mend = "set the clock, best with NTP (timedatectl set-ntp true)";
    if now_unix_ms < WRITTEN_UNIX_MS {
        return Check::bad("clock", "stands before 2025", mend);
    }
    match home.genesis() {
        Ok(genesis) if now_unix_ms < genesis.time_unix_ms => {
            let ms = genesis.time_unix_ms - now_unix_ms;
            Check::warning(
                "clock",
                format!("the chain begins in {} s by this clock", ms / 1_000),
                "if it has begun elsewhere, set the clock, best with NTP",
            )
        }
        _ => Check::good("clock", "is plausible by itself; a peer's clock says more"),
    }
}

/// This machine's clock beside another node's. `ahead_ms` is how far theirs is ahead of ours, known to
/// within `uncertain_ms`. Peers' clocks are shown to the operator and never move ours.
pub fn clock_beside(peer: &str, ahead_ms: i64, uncertain_ms: u64) -> Check {
    let off = ahead_ms.unsigned_abs().saturating_sub(uncertain_ms);
    let seen = format!(
        "{peer}'s is {} ms {} ours (give or take {uncertain_ms} ms)",
        ahead_ms.unsigned_abs(),
        if ahead_ms < 0 { "behind" } else { "ahead of" }
    );
    if off > CLOCK_AHEAD_MS_MAX {
        Check::warning(
            "clock",
            seen,
            "find out which of the two is wrong, and set it with NTP (timedatectl set-ntp true)",
        )
    } else {
        Check::good("clock", seen)
    }
}

/// What the running node says of itself.
pub fn node(status: &message::Status, took: Duration) -> Vec<Check> {
    let sync = status.sync.unwrap_or_default();
    let head = status.head.as_ref().map_or(0, |head| head.height);
    let peers: u32 = status.peers.iter().filter(|row| row.role == "node").map(|row| row.count).sum();
    let inbound: u32 = status
        .peers
        .iter()
        .filter(|row| row.role == "node" && row.direction == "inbound")
        .map(|row| row.count)
        .sum();
    let mut checks = vec![Check::good("node", format!("answers in {} ms, head at {head}", took.as_millis()))];
    checks.push(if sync.syncing {
        Check::warning(
            "sync",
            format!("catching up: {head} of {}", sync.target_height),
            "wait; it is normal after a pause",
        )
    } else if peers == 0 {
        Check::good("sync", "nothing to compare with: no peer is connected")
    } else {
        Check::good("sync", "in step with its peers")
    });
    for alarm in &status.alarms {
        if alarm.starts_with(LOST_BLOCKS) {
            checks.push(Check::bad("store", alarm.clone(), LOST_BLOCKS_MEND));
            continue;
        }
        checks.push(Check::warning(
            "eclipse",
            alarm.clone(),
            "compare the head with that of a node you trust, and add peers that you know (ghostd peers add MULTIADDR)",
        ));
    }
    let reach = status.reachability.clone().unwrap_or_default();
    checks.push(if reach.state == "unreachable" {
        Check::warning(
            "reachability",
            reach.detail,
            "open the UDP port in firewall and router, or set network.external_address; harmless for a node that only follows",
        )
    } else if reach.state == "reachable" {
        Check::good("reachability", reach.detail)
    } else if peers == 0 {
        Check::warning(
            "reachability",
            "no peer is connected",
            "add one (ghostd peers add MULTIADDR, or network.peers); a chain of one node needs none",
        )
    } else if inbound == 0 {
        Check::warning(
            "reachability",
            format!("{}, none of which dialled this node", count_for_people(peers.into(), "peer")),
            "open the UDP port in firewall and router, or set network.external_address; harmless for a node that only follows",
        )
    } else {
        Check::good("reachability", format!("{}, {inbound} of which dialled this node", count_for_people(peers.into(), "peer")))
    });
    checks
}

#[cfg(test)]
mod tests {
    use ghost_proto::{BlockId, Checkpoint, KeyPair};

    use super::*;
    use crate::{
        chain::Chain,
        config::{Layers, commented_file},
        home::Contents,
        store::{ChainStore as _, Mark},
    };

    fn home(dir: &Path, config: &[(&str, String)]) -> Home {
        let key = |n: u8| KeyPair::from_seed(&[n; 32]);
        let genesis = ghost_proto::Genesis {
            name: "test".into(),
            chain_id: 1,
            time_unix_ms: 1_800_000_000_000,
            slot_ms: 1_000,
            gas_price_min: 1,
            block_gas_max: 1_000_000,
            block_bytes_max: 1 << 20,
            authorities: ghost_proto::AuthoritySet::new(vec![key(9).public()]).unwrap(),
            allocation: [].into(),
        };
        let contents = Contents {
            config: commented_file(config),
            genesis: genesis.to_toml(),
            node_key: key(1),
            operator_key: key(2),
            authority_key: Some(key(9)),
            accounts: vec![("dev".into(), key(4))],
        };
        Home::create(dir.join("home"), &contents).unwrap()
    }

    #[test]
    fn a_fresh_home_has_nothing_to_mend() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(
            dir.path(),
            &[
                ("network.listen", "[\"/ip4/127.0.0.1/udp/0/quic-v1\"]".into()),
                ("chain.role", "\"authority\"".into()),
            ],
        );
        let (check, config) = config(&home);
        assert_eq!(check.verdict, Verdict::Good, "{check:?}");
        let config = config.unwrap();
        for check in [
            keys(&home, &config),
            genesis(&home),
            ports(&config, Listening::NotRunning),
            store(&home, false),
            disk(&home),
        ] {
            assert_eq!(check.verdict, Verdict::Good, "{check:?}");
            assert_eq!(check.mend, "");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_how_to_mend_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path(), &[("chain.role", "\"authority\"".into())]);
        let settings = config(&home).1.unwrap();
        assert!(keys(&home, &settings).seen.ends_with("authority 0"));
        // Another key than the genesis names.
        fs::remove_file(home.root().join("authority.key")).unwrap();
        crate::home::write_key_file(&home.root().join("authority.key"), &KeyPair::from_seed(&[8; 32]))
            .unwrap();
        let check = keys(&home, &settings);
        assert!(check.verdict == Verdict::Bad && check.mend.contains("follower"), "{check:?}");
        // A key that others can read.
        let path = home.accounts_dir().join("dev.key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let check = keys(&home, &settings);
        assert!(check.verdict == Verdict::Bad && check.mend.starts_with("chmod 600"), "{check:?}");
        fs::write(home.config_path(), "[network]\nlistn = 1").unwrap();
        let (check, none) = config(&home);
        assert!(none.is_none() && check.seen.contains("`network.listen`"), "{check:?}");
        fs::write(home.genesis_path(), "name = 1").unwrap();
        assert_eq!(genesis(&home).verdict, Verdict::Bad);
    }

    #[test]
    fn a_port_that_another_node_has_is_not_called_this_nodes() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = taken.local_addr().unwrap();
        let listen = |address: String| {
            Layers::new().flag("--listen", "network.listen", vec![address]).unwrap().finish().unwrap()
        };
        let config = listen(format!("/ip4/127.0.0.1/udp/{}/quic-v1", socket.port()));
        assert_eq!(ports(&config, Listening::NotRunning).verdict, Verdict::Bad);
        assert_eq!(ports(&config, Listening::At(&[socket])).verdict, Verdict::Good);
        let elsewhere = SocketAddr::new(socket.ip(), socket.port() ^ 1);
        let check = ports(&config, Listening::At(&[elsewhere]));
        assert_eq!(check.verdict, Verdict::Warning);
        assert!(
            check.seen.contains(&socket.to_string()) && check.seen.contains(&elsewhere.to_string()),
            "{check:?}"
        );
        assert_eq!(ports(&config, Listening::Unknown).verdict, Verdict::Warning);
        drop(taken);
        assert_eq!(ports(&config, Listening::NotRunning).verdict, Verdict::Good);
        // Port 0 is whatever port of that address.
        let any = listen("/ip4/127.0.0.1/udp/0/quic-v1".into());
        assert_eq!(ports(&any, Listening::At(&[socket])).verdict, Verdict::Good);
        assert_eq!(ports(&any, Listening::At(&["127.0.0.2:1".parse().unwrap()])).verdict, Verdict::Warning);
    }

    #[test]
    fn an_authority_that_was_made_a_follower_by_an_emptied_file_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path(), &[("chain.role", "\"authority\"".into())]);
        assert_eq!(keys(&home, &config(&home).1.unwrap()).verdict, Verdict::Good);
        fs::write(home.config_path(), "").unwrap();
        let settings = config(&home).1.unwrap();
        let check = keys(&home, &settings);
        assert!(check.verdict == Verdict::Warning && check.mend.contains("chain.role"), "{check:?}");
        // Another chain's key, or none, makes nobody an authority.
        let key = home.root().join("authority.key");
        fs::remove_file(&key).unwrap();
        assert_eq!(keys(&home, &settings).verdict, Verdict::Good);
        crate::home::write_key_file(&key, &KeyPair::from_seed(&[8; 32])).unwrap();
        assert_eq!(keys(&home, &settings).verdict, Verdict::Good);
    }

    #[test]
    fn a_home_that_cannot_be_written_is_not_called_ready_for_its_first_run() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path(), &[]);
        assert_eq!(store(&home, false).verdict, Verdict::Good);
        // What a read-only file system does to `lock`, so that it holds for root as well.
        fs::remove_file(home.root().join("lock")).unwrap();
        fs::create_dir(home.root().join("lock")).unwrap();
        let check = store(&home, false);
        assert!(check.verdict == Verdict::Bad && check.seen.contains("lock"), "{check:?}");
    }

    #[test]
    fn a_store_that_opens_and_one_that_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path(), &[]);
        drop(sled::open(home.data_dir()).unwrap());
        assert_eq!(store(&home, false).verdict, Verdict::Good);
        let lock = home.lock().unwrap();
        assert_eq!(store(&home, false).verdict, Verdict::Bad, "a node started meanwhile");
        assert_eq!(store(&home, true).verdict, Verdict::Good);
        drop(lock);
        fs::remove_dir_all(home.data_dir()).unwrap();
        fs::write(home.data_dir(), "not a store").unwrap();
        let check = store(&home, false);
        assert!(check.verdict == Verdict::Bad && check.mend.starts_with("move it away"), "{check:?}");
    }

    #[test]
    fn a_store_that_lost_final_blocks_is_named_whether_its_node_runs_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path(), &[]);
        let genesis = Arc::new(home.genesis().unwrap());
        let path = home.data_dir().join("chain");
        let store = || Arc::new(SledStore::open(&path, CACHE_BYTES_DEFAULT).unwrap());
        drop(Chain::open(genesis.clone(), store(), None, [1; 32]).unwrap());
        assert_eq!(super::store(&home, false).verdict, Verdict::Good);
        // The mark remembers a block that the store does not have.
        let mut mark = Mark::new(genesis.id());
        mark.advance(Checkpoint { height: 7, id: BlockId([7; 32]) }, None, None);
        store().put_mark(&mark.encode()).unwrap();
        let check = super::store(&home, false);
        assert!(check.verdict == Verdict::Bad && check.seen.contains("0 of 7"), "{check:?}");
        let view = Chain::open(genesis.clone(), store(), None, [1; 32]).unwrap().view();
        let alarm = lost_blocks(0, view.lost().unwrap().height);
        let status = message::Status { alarms: vec![alarm.clone()], ..Default::default() };
        let checks = node(&status, Duration::ZERO);
        assert!(checks.iter().any(|check| check.name == "store" && check.seen == alarm), "{checks:?}");
    }

    #[test]
    fn thresholds_from_both_sides() {
        let disk = |free| judge_disk(free).verdict;
        assert_eq!(disk(DISK_FREE_BYTES_MIN), Verdict::Good);
        assert_eq!(disk(DISK_FREE_BYTES_MIN - 1), Verdict::Warning);
        assert_eq!(disk(DISK_FREE_BYTES_MIN / 10 - 1), Verdict::Bad);
        let descriptors = |limit| judge_descriptors(limit).verdict;
        assert_eq!(descriptors(Some(DESCRIPTORS_MIN)), Verdict::Good);
        assert_eq!(descriptors(Some(DESCRIPTORS_MIN - 1)), Verdict::Warning);
        assert_eq!(descriptors(None), Verdict::Good);
        for sign in [1, -1] {
            let most = i64::try_from(CLOCK_AHEAD_MS_MAX).unwrap() + 20;
            assert_eq!(clock_beside("p", sign * most, 20).verdict, Verdict::Good);
            assert_eq!(clock_beside("p", sign * (most + 1), 20).verdict, Verdict::Warning);
        }
    }

    #[test]
    fn a_clock_before_the_chain_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path(), &[]);
        assert_eq!(clock(&home, 0).verdict, Verdict::Bad);
        assert_eq!(clock(&home, 1_799_999_999_999).verdict, Verdict::Warning);
        assert_eq!(clock(&home, 1_800_000_000_000).verdict, Verdict::Good);
    }

    #[test]
    fn what_peers_found_out_by_dialling_counts_more_than_who_dialled() {
        let reach = |state: &str| {
            let reachability = message::Reachability { state: state.into(), detail: "at …".into() };
            let reachability = Some(Box::new(reachability));
            let status = message::Status { reachability, alarms: vec!["alone".into()], ..Default::default() };
            let checks = node(&status, Duration::ZERO);
            assert!(checks.iter().any(|check| check.name == "eclipse" && check.verdict == Verdict::Warning));
            checks.last().unwrap().verdict
        };
        assert_eq!(reach("reachable"), Verdict::Good);
        assert_eq!(reach("unreachable"), Verdict::Warning);
        assert_eq!(reach("unknown"), Verdict::Warning);
    }

    #[test]
    fn a_node_without_peers_or_out_of_reach_is_told_so() {
        let row = |direction: &str| message::PeerCount {
            direction: direction.into(),
            network: "ip4".into(),
            role: "node".into(),
            count: 1,
        };
        let reach = |peers| {
            let status = message::Status { peers, ..Default::default() };
            node(&status, Duration::ZERO).pop().unwrap().verdict
        };
        assert_eq!(reach(vec![]), Verdict::Warning);
        assert_eq!(reach(vec![row("outbound")]), Verdict::Warning);
        assert_eq!(reach(vec![row("inbound")]), Verdict::Good);
    }
}
