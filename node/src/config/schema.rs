//! Every setting there is: type, meaning, cost, bounds and default, once.

use std::{net::SocketAddr, path::PathBuf};

use ghost_discovery::prefix::Prefix;
use ghost_proto::{Multiaddr, PeerId};

use super::{
    ConfigError, Layers,
    value::{Field, Kind, LogFormat, Role, TorMode},
};

/// From one list: the typed structs, their documentation, [`FIELDS`] and the reader.
macro_rules! settings {
    ($(
        $(#[doc = $section_doc:literal])*
        $section:ident: $Section:ident {
            $($(#[doc = $doc:literal])* $field:ident: $type:ty, $kind:expr, default $default:literal;)*
        }
    )*) => {
        $(
            $(#[doc = $section_doc])*
            #[derive(Debug, Clone, PartialEq)]
            pub struct $Section {
                $(
                    $(#[doc = $doc])*
                    #[doc = concat!("\nDefault: `", $default, "`. Bounds: `", stringify!($kind), "`.")]
                    pub $field: $type,
                )*
            }
        )*

        /// All settings of a node, checked.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $($(#[doc = $section_doc])* pub $section: $Section,)*
        }

        /// Every setting, in the order in which the file shows them.
        pub const FIELDS: &[Field] = &[$($(Field {
            section: stringify!($section),
            name: stringify!($field),
            doc: concat!($($doc, "\n"),*),
            kind: $kind,
            default: $default,
        },)*)*];

        impl Config {
            pub(super) fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
                Ok(Self {
                    $($section: $Section {
                        $($field: layers.read(concat!(stringify!($section), ".", stringify!($field)))?,)*
                    },)*
                })
            }
        }
    };
}

settings! {
    /// Connections to other peers.
    network: Network {
        /// Where to listen for QUIC. Port 0 takes any free one. Empty: dial only.
        /// Each address costs one UDP socket.
        listen: Vec<Multiaddr>, Kind::List("multiaddrs like /ip4/0.0.0.0/udp/4001/quic-v1"),
            default r#"["/ip4/0.0.0.0/udp/4001/quic-v1"]"#;
        /// Peers to stay connected to, dialled again whenever they are lost; with /p2p/ and their PeerId.
        /// They count as outbound peers.
        peers: Vec<Multiaddr>, Kind::List("multiaddrs that end in /p2p/12D3KooW…"), default "[]";
        /// Where to begin when nobody is known: multiaddrs with /p2p/ and their PeerId. They go into the address
        /// book and are dialled, asked and left like anybody else there; nothing is kept connected to them.
        seeds: Vec<Multiaddr>, Kind::List("multiaddrs that end in /p2p/12D3KooW…"), default "[]";
        /// Names to look up when nobody else can be reached: TXT records dnsaddr=MULTIADDR under _dnsaddr.NAME.
        /// The resolver learns that a node of this chain starts here, and could name peers of its own.
        dns_seeds: Vec<String>, Kind::List("names like seeds.example.org"), default "[]";
        /// Which name server to ask for dns_seeds. Empty: those of the system.
        dns_server: Option<SocketAddr>, Kind::Text("an address and a port like 9.9.9.9:53, or empty"), default r#""""#;
        /// Where others reach this node, if it cannot see that itself (behind NAT or a proxy).
        /// Empty: what peers report is used. A wrong one costs every inbound peer.
        external_address: Option<Multiaddr>, Kind::Text("a multiaddr, or empty"), default r#""""#;
        /// Look for further peers by asking those that are known. Off: only `peers` are dialled.
        discovery: bool, Kind::Flag, default "true";
        /// Peers that may be connected because they dialled us.
        /// Each may make the node hold up to about 4 MiB, so 100 of them 400 MiB at worst; idle ones take about 50 KiB.
        inbound_max: u32, Kind::Whole { min: 0, max: 4096, unit: "connections" }, default "100";
        /// Peers the node dials by itself. More make it harder to cut the node off; each costs upload for relay.
        outbound_max: u32, Kind::Whole { min: 0, max: 256, unit: "connections" }, default "16";
        /// Further peers the node dials for blocks only. No transaction travels there, so that nobody can tell
        /// from transactions who is next to whom. None in private networks.
        block_only_max: u32, Kind::Whole { min: 0, max: 16, unit: "connections" }, default "2";
        /// Mean time between two short dials that only look whether a known address is alive; 0 for none.
        /// They keep the address book fresh; each costs a handshake.
        feeler_every_s: u32, Kind::Whole { min: 0, max: 86400, unit: "seconds" }, default "120";
        /// Handshakes under way from which on a newcomer has to prove its address first, which costs it a
        /// round trip (QUIC Retry). At four times as many nobody is let in. Each takes about 40 KiB.
        half_open_max: u32, Kind::Whole { min: 1, max: 4096, unit: "handshakes" }, default "256";
        /// Inbound connections and handshakes from one IPv4 address or IPv6 /64. Not counted: loopback, and
        /// private addresses in a private network.
        per_host_max: u32, Kind::Whole { min: 1, max: 4096, unit: "connections" }, default "4";
        /// The same for an IPv4 /16 or IPv6 /32. An attacker in one of them gets no more slots than this.
        per_netgroup_max: u32, Kind::Whole { min: 1, max: 4096, unit: "connections" }, default "32";
        /// Peers that are always let in and never evicted, whatever the limits say.
        allow_peers: Vec<PeerId>, Kind::List("PeerIds like 12D3KooW…"), default "[]";
        /// Peers that are never let in.
        deny_peers: Vec<PeerId>, Kind::List("PeerIds like 12D3KooW…"), default "[]";
        /// Addresses that are not held to per_host_max and per_netgroup_max.
        allow_hosts: Vec<Prefix>, Kind::List("addresses or ranges like 10.0.0.0/8"), default "[]";
        /// Addresses that are refused before a handshake costs anything.
        deny_hosts: Vec<Prefix>, Kind::List("addresses or ranges like 10.0.0.0/8"), default "[]";
        /// Private network: only allow_peers and operators get in, programs too, and only allow_peers and
        /// `peers` are dialled.
        only_allowed: bool, Kind::Flag, default "false";
    }
    /// Reaching peers, and being reached, without saying where one is.
    tor: Tor {
        /// `also`: peers over Tor besides those over IP, under another key and records of its own. `only`: nothing
        /// leaves this machine but through Tor, no UDP socket is opened, names are not looked up; while Tor does not
        /// work the node has no peers and `status` says why. Costs about 40 MiB and the latency of six relays.
        mode: TorMode, Kind::Choice(&["off", "also", "only"]), default r#""off""#;
        /// SOCKS5 port of a tor daemon that runs already, to dial through. Empty: Tor in this process, which needs a
        /// ghostd built with `--features tor`.
        socks: Option<SocketAddr>, Kind::Text("an address and a port like 127.0.0.1:9050, or empty"), default r#""""#;
        /// Be reachable as an onion service, with a key that is kept under `tor/` in the home (or by the daemon).
        host: bool, Kind::Flag, default "true";
        /// The port of the onion service.
        port: u32, Kind::Whole { min: 1, max: 65535, unit: "port" }, default "4001";
        /// With `socks`: the onion service that the daemon forwards here (HiddenServiceDir in its torrc).
        external_address: Option<Multiaddr>, Kind::Text("a multiaddr like /onion3/NAME:4001, or empty"), default r#""""#;
        /// With `socks`: where the daemon forwards to (the target of HiddenServicePort). Keep it on loopback: who
        /// connects there counts as having come through Tor.
        forward: Option<SocketAddr>, Kind::Text("an address and a port like 127.0.0.1:4003, or empty"), default r#""""#;
        /// Show the same key over Tor as over IP: everyone can then tell that it is one node, and where it is.
        same_identity: bool, Kind::Flag, default "false";
        /// Settings of the Tor in this process, a TOML file of arti's: bridges, or the authorities of a private
        /// network. A relative path starts at the home. Empty: the public network.
        settings: Option<PathBuf>, Kind::Text("the path of a file, or empty"), default r#""""#;
    }
    /// What sizes and times of packets tell whoever sees only them. SECURITY.md says what it hides and what not.
    shape: Shape {
        /// Bring what is sent of transactions, calls and their answers, and peer records to one of a few sizes (512 bytes,
        /// doubling up to 16 KiB). Costs bytes: `testnet bench shape` measures how many.
        pad: bool, Kind::Flag, default "false";
        /// Hold back pushed transactions for a random time of up to so much, and send what has come meanwhile together.
        /// Costs half of it for each node on a transaction's way.
        jitter_ms: u32, Kind::Whole { min: 0, max: 5000, unit: "milliseconds" }, default "0";
    }
    /// Remote calls.
    rpc: Rpc {
        /// Answer calls (status, blocks, accounts, submitting) of programs that are not this node's operator.
        /// Off: only operators are answered; peers still get blocks and transactions.
        strangers: bool, Kind::Flag, default "true";
        /// PeerIds that may give orders (peers add, drop, ban …), besides the holder of operator.key.
        operators: Vec<PeerId>, Kind::List("PeerIds like 12D3KooW…"), default "[]";
        /// Programs that may be connected at once. They are not counted as inbound peers.
        /// Each may make the node hold up to about 4 MiB.
        clients_max: u32, Kind::Whole { min: 0, max: 4096, unit: "connections" }, default "64";
    }
    /// What the node does for its chain.
    chain: Chain {
        /// A follower checks, keeps and relays; an authority proposes and votes as well.
        role: Role, Kind::Choice(&["follower", "authority"]), default r#""follower""#;
        /// The key an authority signs with; a relative path starts at the home. Never let two nodes run with one
        /// key: they would sign against each other, which everyone can prove.
        authority_key: PathBuf, Kind::Text("the path of a key file"), default r#""authority.key""#;
    }
    /// The store on disk.
    store: Store {
        /// Memory for recently used pages of the store. More makes reads of old blocks faster.
        cache_mib: u64, Kind::Whole { min: 8, max: 65536, unit: "MiB" }, default "64";
    }
    /// Transactions that wait for a block.
    mempool: Mempool {
        /// Bytes of transactions that are kept. When full, the cheapest make room. Memory in use is about twice that.
        size_mib: u64, Kind::Whole { min: 1, max: 4096, unit: "MiB" }, default "64";
    }
    /// Figures for Prometheus.
    metrics: Metrics {
        /// Where to answer `GET /metrics` over HTTP. Empty: nowhere. It is not authenticated: keep it on loopback or
        /// behind a firewall.
        listen: Option<SocketAddr>, Kind::Text("an address and a port like 127.0.0.1:9464, or empty"), default r#""""#;
    }
    /// What the node says on standard error.
    log: Log {
        /// Which lines to write: LEVEL, or TARGET=LEVEL with commas (error, warn, info, debug, trace).
        /// `debug` costs about a tenth of the throughput, `trace` much more.
        filter: String, Kind::Text("directives like warn,ghost=info"), default r#""warn,ghost=info""#;
        /// For people or for programs.
        format: LogFormat, Kind::Choice(&["text", "json"]), default r#""text""#;
    }
}
