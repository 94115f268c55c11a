//! A message of 1 KiB from one wallet to another, through one mailbox node.
//!
//! Ours crosses two connections and is sealed, opened and kept on the way; the rival is a request with the same
//! content and an empty answer over one connection. Measured twice: with everything that must survive on disk before
//! it goes on (three flushes one after another: sender, mailbox, receiver), and with the same wallets and node
//! keeping all in memory, which is what the network and the cryptography cost.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use ghost_frames::{
    Frame, Payload, StreamType,
    wallet::{
        DepositProof, MailboxAcknowledge, MailboxCollect, MailboxDeposit, MailboxGrant, MailboxOpen,
        MailboxOutcome,
    },
    writer::EncodedFrame,
};
use ghost_node::{
    clock::Clock,
    config::Config,
    run::{NodeParts, RunningNode, start_parts},
    store::{ChainStore, MemoryStore, SledStore},
};
use ghost_proto::{AuthoritySet, Genesis, KeyPair, MailboxAt, Multiaddr, PublicKey, record::key_of};
use ghost_protocol::{
    Identity,
    client::{Client, ClientConfig},
    request::Answer,
    transport::quic::{Socket, tuning},
};
use ghost_wallet_channel::{
    envelope::{OVERHEAD_BYTES, pad},
    keys::WalletKeys,
    secret::Secret,
    session::{Deposit, Output, Proof, StoreWrite, Wallet, What},
    stamp,
};

use super::{
    BenchArgs, BenchError, Doing, End, bare, in_turns,
    report::{Comparison, Target, quantile},
};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);
/// Content of a message.
const CONTENT_BYTES: usize = 1024;
/// Messages of a turn.
const MESSAGES: usize = 60;
/// Contents whose envelopes are compared with themselves.
const CONTENTS: [usize; 5] = [16, 300, 1024, 4096, 30_000];

pub(super) fn run(args: &BenchArgs) -> Result<Vec<Comparison>, BenchError> {
    let (server, client) = (End::new(args)?, End::new(args)?);
    let dir = tempfile::tempdir().doing("making a directory")?;
    let on_disk = SledStore::open(&dir.path().join("node"), 32 << 20).doing("opening a store")?;
    let stores: [Arc<dyn ChainStore>; 2] = [Arc::new(on_disk), Arc::new(MemoryStore::new())];
    let mut pairs = Vec::new();
    // A node ends when it is dropped.
    let mut nodes = Vec::new();
    for (index, store) in stores.into_iter().enumerate() {
        let node = server.run(node(store))?;
        let kept = (index == 0).then(|| dir.path().join("wallets"));
        let (address, peer) = (node.listen[0].clone(), node.peer_id);
        let key = key_of(&peer).ok_or("its key is not ed25519").doing("naming a node")?;
        pairs.push(client.run(Pair::open(address, key, kept))?);
        nodes.push(node);
    }
    let rival = server.run(serve_bare())?;
    let mut bare = client.run(Bare::dial(rival.0, rival.1))?;

    let mut latency = [(); 3].map(|()| Vec::new());
    let mut bytes = [(); 3].map(|()| Vec::new());
    for run in 0..=args.runs {
        for index in in_turns::<3>(run) {
            let (mut times, moved) = match index {
                2 => {
                    let (back, result) = client.run(bare.turn())?;
                    bare = back;
                    result
                }
                _ => {
                    let pair = pairs.remove(index);
                    let (back, result) = client.run(pair.turn())?;
                    pairs.insert(index, back);
                    result
                }
            };
            // The first turn fills caches: it counts for nobody.
            if run > 0 {
                latency[index].push(quantile(&mut times, 0.5) * 1e6);
                bytes[index].push(moved as f64 / MESSAGES as f64);
            }
        }
    }
    let [durable, memory, rival] = latency;
    let [_, memory_bytes, rival_bytes] = bytes;
    let against = |work: &str, unit, ours, rival, targets: &[Target]| {
        Comparison::new(work, unit, ("wallet", ours), ("quinn", rival), targets)
    };
    let mut comparisons = vec![
        against("1 KiB to the other wallet, in memory, p50", "µs", memory, rival.clone(), &[]),
        against("1 KiB to the other wallet, durable at each step, p50", "µs", durable, rival, &[]),
        against("UDP bytes for a message of 1 KiB, all links", "B", memory_bytes, rival_bytes, &[]),
    ];
    for content in CONTENTS {
        let envelope =
            pad(&vec![0; content]).map_or(f64::NAN, |padded| (padded.len() + OVERHEAD_BYTES) as f64);
        comparisons.push(Comparison::new(
            format!("envelope for content of {content} bytes"),
            "B",
            ("size classes", vec![envelope]),
            ("unpadded", vec![(content + OVERHEAD_BYTES) as f64]),
            &[],
        ));
    }
    drop(nodes);
    Ok(comparisons)
}

async fn node(store: Arc<dyn ChainStore>) -> Result<RunningNode, BenchError> {
    let authority = KeyPair::from_seed(&[1; 32]);
    let genesis = Genesis {
        name: "wallet bench".into(),
        chain_id: 7,
        time_unix_ms: Clock::System.unix_ms(),
        // No block disturbs a turn.
        slot_ms: 60_000,
        gas_price_min: 1,
        block_gas_max: 100_000_000,
        block_bytes_max: 1 << 20,
        authorities: AuthoritySet::new(vec![authority.public()]).doing("naming an authority")?,
        allocation: Default::default(),
        markets: Default::default(),
        feeds: Vec::new(),
    };
    let mut config = Config::default();
    config.network.discovery = false;
    config.mailbox.open_bits = 8;
    start_parts(NodeParts {
        config,
        genesis: Arc::new(genesis),
        identity: Identity::generate(),
        authority: None,
        operators: Vec::new(),
        store,
        peer_store: None,
        mempool_file: None,
        sockets: vec![Socket::Bind(bare::LOOPBACK)],
        clock: Clock::System,
        seed: None,
        control: None,
        tor: None,
    })
    .await
    .doing("starting a node")
}

/// A wallet with its own connection to the node, and one for what it brings.
struct Party {
    wallet: Wallet,
    own: Client,
    bring: Client,
    mail: Answer,
    /// Where it keeps its state, if it does.
    db: Option<sled::Db>,
}

struct Pair {
    parties: [Party; 2],
    keys: [PublicKey; 2],
}

fn now() -> u64 {
    Clock::System.unix_ms()
}

async fn asked(client: &Client, frame: EncodedFrame) -> Result<(), BenchError> {
    let answer =
        client.session().request(StreamType::Wallet, &frame, PATIENCE).await.doing("asking a mailbox")?;
    match answer.single().await.doing("asking a mailbox")? {
        Frame::MailboxAnswer(answer) if answer.outcome == MailboxOutcome::Done => Ok(()),
        other => Err(format!("{other:?}")).doing("asking a mailbox"),
    }
}

async fn connect(key: &KeyPair, address: &Multiaddr) -> Result<Client, BenchError> {
    let config = ClientConfig { timeout: PATIENCE, ..ClientConfig::new(Identity::from_seed(&key.seed())) };
    Client::connect(config, address).await.doing("connecting to a mailbox")
}

impl Party {
    async fn open(
        seed: u8,
        address: &Multiaddr,
        node: PublicKey,
        db: Option<sled::Db>,
    ) -> Result<Self, BenchError> {
        let mut wallet = Wallet::new(WalletKeys::from_seed(Secret::new([seed; 32])));
        let key = wallet.keys().box_key(&node);
        let own = connect(&key, address).await?;
        let day = (now() / 86_400_000) as u32;
        let subject = stamp::of_box(&node, &key.public(), day);
        let nonce = stamp::search(&subject, 8, 0, u64::MAX).ok_or("none").doing("making a stamp")?;
        asked(&own, MailboxOpen { stamp_bits: 8, day, nonce }.to_frame()).await?;
        let mailbox = MailboxAt { box_key: key.public(), stamp_bits: 8, node: address.clone() };
        wallet.set_mailboxes(vec![mailbox], now(), &mut rand::rng()).doing("naming a mailbox")?;
        let collect = MailboxCollect { after: 0 }.to_frame();
        let mail = own.session().request(StreamType::Wallet, &collect, PATIENCE).await.doing("collecting")?;
        let stranger = Identity::generate();
        let config = ClientConfig { timeout: PATIENCE, ..ClientConfig::new(stranger) };
        let bring = Client::connect(config, address).await.doing("connecting to a mailbox")?;
        Ok(Self { wallet, own, bring, mail, db })
    }

    fn keep(&self, writes: &[StoreWrite]) -> Result<(), BenchError> {
        let Some(db) = &self.db else { return Ok(()) };
        let mut batch = sled::Batch::default();
        for write in writes {
            match &write.value {
                Some(value) => batch.insert(write.key.clone(), value.clone()),
                None => batch.remove(write.key.clone()),
            }
        }
        db.apply_batch(batch).doing("writing")?;
        db.flush().doing("flushing").map(|_| ())
    }

    async fn bring(&self, deposit: Deposit) -> Result<(), BenchError> {
        let mailbox = &deposit.mailboxes[0];
        let proof = match &deposit.proof {
            Proof::Grant(grant) => DepositProof::Grant(*grant.bytes()),
            Proof::Stamp => {
                let subject = stamp::of_envelope(&mailbox.box_key, &deposit.envelope);
                let nonce = stamp::search(&subject, mailbox.stamp_bits, 0, u64::MAX);
                DepositProof::Stamp(nonce.ok_or("none").doing("making a stamp")?)
            }
        };
        let deposit = MailboxDeposit { box_key: mailbox.box_key, proof, envelope: deposit.envelope.into() };
        asked(&self.bring, deposit.to_frame()).await
    }

    /// What a wallet's process does, in its order.
    async fn perform(&mut self) -> Result<Output, BenchError> {
        let mut output = self.wallet.take();
        self.keep(&output.writes)?;
        for (add, id) in std::mem::take(&mut output.grants) {
            asked(&self.own, MailboxGrant { add, ids: vec![id] }.to_frame()).await?;
        }
        for deposit in std::mem::take(&mut output.deposits) {
            self.bring(deposit).await?;
        }
        Ok(output)
    }

    /// Takes the next envelope; its sequence.
    async fn receive(&mut self) -> Result<(u64, Output), BenchError> {
        match self.mail.next_whenever().await.doing("collecting")? {
            Some(Frame::MailboxDelivery(delivery)) => {
                self.wallet
                    .envelope(&delivery.envelope, now(), &mut rand::rng())
                    .doing("opening an envelope")?;
                Ok((delivery.sequence, self.perform().await?))
            }
            other => Err(format!("{other:?}")).doing("collecting"),
        }
    }

    async fn acknowledge(&self, up_to: u64) -> Result<(), BenchError> {
        asked(&self.own, MailboxAcknowledge { up_to }.to_frame()).await
    }

    fn moved(&self) -> u64 {
        [&self.own, &self.bring].map(|client| client.session().wire_bytes()).iter().map(|(a, b)| a + b).sum()
    }
}

impl Pair {
    async fn open(
        address: Multiaddr,
        node: PublicKey,
        kept: Option<std::path::PathBuf>,
    ) -> Result<Self, BenchError> {
        let db = |index: usize| {
            let path = kept.as_ref().map(|path| path.join(index.to_string()));
            path.map(|path| sled::Config::new().path(path).flush_every_ms(None).open()).transpose()
        };
        let mut a = Party::open(21, &address, node, db(0).doing("opening a store")?).await?;
        let mut b = Party::open(22, &address, node, db(1).doing("opening a store")?).await?;
        let presence = b.wallet.presence().cloned().ok_or("none").doing("reading a presence")?;
        a.wallet.open(presence, None, now(), &mut rand::rng()).doing("opening a channel")?;
        a.perform().await?;
        for at_b in [true, false, true] {
            let party = if at_b { &mut b } else { &mut a };
            let (sequence, _) = party.receive().await?;
            party.acknowledge(sequence).await?;
        }
        let keys = [a.wallet.keys().wallet(), b.wallet.keys().wallet()];
        Ok(Self { parties: [a, b], keys })
    }

    /// Messages one after another, each way in turns as people talk: seconds of each, bytes of all.
    async fn turn(mut self) -> Result<(Self, (Vec<f64>, u64)), BenchError> {
        let text = "x".repeat(CONTENT_BYTES);
        let before: u64 = self.parties.iter().map(Party::moved).sum();
        let mut times = Vec::with_capacity(MESSAGES);
        for message in 0..MESSAGES {
            let to = self.keys[1 - message % 2];
            let [a, b] = &mut self.parties;
            let (from, at) = if message % 2 == 0 { (a, b) } else { (b, a) };
            let begun = Instant::now();
            from.wallet.say(&to, &text, now(), &mut rand::rng()).doing("saying something")?;
            let (sent, received) = tokio::join!(from.perform(), at.receive());
            sent?;
            let (sequence, output) = received?;
            times.push(begun.elapsed().as_secs_f64());
            if !output.events.iter().any(|event| matches!(event.what, What::Text { .. })) {
                return Err("no text came").doing("receiving");
            }
            at.acknowledge(sequence).await?;
        }
        let after: u64 = self.parties.iter().map(Party::moved).sum();
        Ok((self, (times, after - before)))
    }
}

async fn serve_bare() -> Result<(std::net::SocketAddr, ghost_protocol::PeerId), BenchError> {
    let identity = Identity::generate();
    let endpoint = bare::server(&identity, tuning::transport())?;
    let address = endpoint.local_addr().doing("naming a socket")?;
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                    if recv.read_to_end(CONTENT_BYTES).await.is_err() || send.finish().is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok((address, identity.peer_id()))
}

struct Bare {
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

impl Bare {
    async fn dial(address: std::net::SocketAddr, peer: ghost_protocol::PeerId) -> Result<Self, BenchError> {
        let endpoint = bare::client()?;
        let config = bare::client_config(&Identity::generate(), tuning::transport(), false)?;
        let connection = endpoint
            .connect_with(config, address, &bare::name_of(&peer)?)
            .doing("dialling")?
            .await
            .doing("dialling")?;
        Ok(Self { connection, _endpoint: endpoint })
    }

    async fn turn(self) -> Result<(Self, (Vec<f64>, u64)), BenchError> {
        let content = Bytes::from(vec![b'x'; CONTENT_BYTES]);
        let moved = |connection: &quinn::Connection| {
            let stats = connection.stats();
            stats.udp_tx.bytes + stats.udp_rx.bytes
        };
        let before = moved(&self.connection);
        let mut times = Vec::with_capacity(MESSAGES);
        for _ in 0..MESSAGES {
            let begun = Instant::now();
            let (mut send, mut recv) = self.connection.open_bi().await.doing("opening a stream")?;
            send.write_all(&content).await.doing("asking")?;
            send.finish().doing("asking")?;
            recv.read_to_end(16).await.doing("reading an answer")?;
            times.push(begun.elapsed().as_secs_f64());
        }
        let after = moved(&self.connection);
        Ok((self, (times, after - before)))
    }
}
