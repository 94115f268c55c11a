//! Opening a channel: two messages, each kept by a mailbox until its receiver comes.
//!
//! Noise `IKpsk0+psk2` (revision 34, by `snow`) with X25519, ChaCha20-Poly1305 and BLAKE2s. The initiator
//! knows the responder's keys from its presence record and proves its own inside the first message. The two
//! preshared keys are what makes it hybrid: psk0 comes from an ML-KEM-768 encapsulation to the responder's
//! long-lived key, psk2 from one to a key of the moment that travels in the first message. Who records
//! everything and breaks X25519 later learns nothing without breaking ML-KEM, and the other way round.
//!
//! | | first message | all that follows |
//! | --- | --- | --- |
//! | who it is from | hidden from all but the responder | hidden |
//! | the responder's keys are stolen later | the initiator's name and presence become readable | stays secret: keys of the moment on both sides |
//! | can be replayed | yes: whoever reads it compares its time with that of the last one | no |
//!
//! The initiator keeps the seed that everything it drew follows from, not Noise's state: it makes the same
//! first message again when it goes on, in another process if need be.

use ghost_proto::{
    Presence, PublicKey,
    layout::{Cursor, put_var_bytes},
    limits::PRESENCE_BYTES_MAX,
    wallet::POST_QUANTUM_KEY_LEN,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, Rng, SeedableRng};
use snow::{
    Builder, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice, NoiseParams},
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};

use crate::{
    envelope::{ANSWER_BYTES, EnvelopeKind, OPENING_BYTES, pad_to, unpad},
    keys::{WalletKeys, public_of},
    post_quantum::{self, CIPHERTEXT_LEN},
    ratchet::Ratchet,
    secret::Secret,
};

const NOISE: &str = "Noise_IKpsk0+psk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"ghost wallet channel 1";

/// Noise's share of the first message: ephemeral key, sealed static key, tag of the payload.
const NOISE_1_BYTES: usize = 32 + 48 + 16;
/// Noise's share of the second message.
const NOISE_2_BYTES: usize = 32 + 16;
const OPENING_PAYLOAD: usize = OPENING_BYTES - 1 - CIPHERTEXT_LEN - NOISE_1_BYTES;
const ANSWER_PAYLOAD: usize = ANSWER_BYTES - 1 - CIPHERTEXT_LEN - NOISE_2_BYTES;
/// Version, time, grant, key of the moment, presence, lengths.
const OPENING_CONTENT_MAX: usize = 1 + 8 + 32 + POST_QUANTUM_KEY_LEN + PRESENCE_BYTES_MAX + 8;

const _: () = assert!(OPENING_CONTENT_MAX <= OPENING_PAYLOAD, "an opening holds the longest presence");

/// Why an opening or an answer is no good. It is dropped; who sent it cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EstablishError {
    /// The peer's presence has bytes in place of a key.
    #[error("the wallet's presence record holds no usable keys")]
    BadKeys,
    /// It is not for this key, was altered, or is no such message.
    #[error("not for this wallet, or altered on its way")]
    NotForUs,
    /// It decrypts and makes no sense.
    #[error("its content is not what the protocol says")]
    Malformed,
}

/// What a wallet that opens a channel has to keep until the answer comes: enough to make the first message
/// again, word for word.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Opening {
    seed: Secret,
    time_unix_ms: u64,
    /// Lets the responder bring mail to our boxes.
    grant: Secret,
    own_presence: Vec<u8>,
}

/// A first message, read.
#[derive(Debug)]
pub struct Opened {
    /// Whose it is, proven.
    pub peer: Presence,
    /// When it says it was made. Only a later one than the last of this peer is to be believed.
    pub time_unix_ms: u64,
    /// Lets us bring mail to the peer's boxes.
    pub grant: Secret,
    state: HandshakeState,
    moment_key: Vec<u8>,
}

impl std::fmt::Debug for Established {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Established").finish_non_exhaustive()
    }
}

/// What both sides have in the end.
pub struct Established {
    /// To seal and open messages with.
    pub ratchet: Ratchet,
    /// Lets us bring mail to the peer's boxes.
    pub grant: Secret,
}

/// Draws from a seed what Noise draws.
struct Seeded([u8; 32]);

struct SeededRng(ChaCha20Rng);

impl Random for SeededRng {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoResolver for Seeded {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRng(ChaCha20Rng::from_seed(self.0))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

fn params() -> NoiseParams {
    NOISE.parse().expect("snow knows this pattern")
}

fn prologue(responder: &PublicKey) -> Vec<u8> {
    [PROLOGUE, &responder.0].concat()
}

fn preshared(label: &str, shared: &Secret, ciphertext: &[u8]) -> Secret {
    Secret::derive(label, &[shared.bytes(), ciphertext])
}

const PSK_0: &str = "ghost 2026 wallet channel psk0";
const PSK_2: &str = "ghost 2026 wallet channel psk2";

/// The first root key: Noise's two transport keys and its transcript hash, which covers both ML-KEM secrets.
fn root(state: &mut HandshakeState) -> Secret {
    let (first, second) = state.dangerously_get_raw_split();
    Secret::derive("ghost 2026 wallet channel root", &[&first, &second, state.get_handshake_hash()])
}

impl Opening {
    /// Begins a channel. `own` is this wallet's presence; `grant` lets the peer bring mail.
    pub fn new(own: &Presence, grant: Secret, time_unix_ms: u64, entropy: &mut impl CryptoRng) -> Self {
        Self { seed: Secret::draw(entropy), time_unix_ms, grant, own_presence: own.bytes().to_vec() }
    }

    /// When it was begun.
    pub fn time_unix_ms(&self) -> u64 {
        self.time_unix_ms
    }

    /// The first message and Noise's state behind it; the same each time.
    fn first(&self, keys: &WalletKeys, peer: &Presence) -> Result<(Vec<u8>, HandshakeState), EstablishError> {
        let (ciphertext, shared) = post_quantum::encapsulate(
            &peer.body().post_quantum_key,
            &self.seed.child("ghost 2026 wallet opening encapsulation"),
        )
        .ok_or(EstablishError::BadKeys)?;
        let psk = preshared(PSK_0, &shared, &ciphertext);
        let noise_seed = self.seed.child("ghost 2026 wallet opening noise");
        let prologue = prologue(&peer.wallet());
        let mut state = Builder::with_resolver(params(), Box::new(Seeded(*noise_seed.bytes())))
            .prologue(&prologue)
            .and_then(|builder| builder.local_private_key(keys.channel().bytes()))
            .and_then(|builder| builder.remote_public_key(&peer.body().channel_key))
            .and_then(|builder| builder.psk(0, psk.bytes()))
            .and_then(Builder::build_initiator)
            .map_err(|_| EstablishError::BadKeys)?;

        let mut content = Vec::with_capacity(OPENING_CONTENT_MAX);
        content.push(1);
        content.extend_from_slice(&self.time_unix_ms.to_be_bytes());
        content.extend_from_slice(self.grant.bytes());
        content.extend_from_slice(&post_quantum::public_of(&self.moment_secret()));
        put_var_bytes(&mut content, &self.own_presence);

        let mut envelope = vec![0; OPENING_BYTES];
        envelope[0] = EnvelopeKind::Opening as u8;
        envelope[1..=CIPHERTEXT_LEN].copy_from_slice(&ciphertext);
        let written = state
            .write_message(&pad_to(&content, OPENING_PAYLOAD), &mut envelope[1 + CIPHERTEXT_LEN..])
            .map_err(|_| EstablishError::BadKeys)?;
        debug_assert_eq!(written, OPENING_BYTES - 1 - CIPHERTEXT_LEN);
        Ok((envelope, state))
    }

    fn moment_secret(&self) -> Secret {
        self.seed.child("ghost 2026 wallet opening moment")
    }

    /// The first message, for the peer's mailbox.
    pub fn envelope(&self, keys: &WalletKeys, peer: &Presence) -> Result<Vec<u8>, EstablishError> {
        Ok(self.first(keys, peer)?.0)
    }

    /// Reads the answer.
    pub fn finish(
        &self,
        keys: &WalletKeys,
        peer: &Presence,
        answer: &[u8],
        entropy: &mut impl CryptoRng,
    ) -> Result<Established, EstablishError> {
        if answer.len() != ANSWER_BYTES || EnvelopeKind::of(answer) != Some(EnvelopeKind::Answer) {
            return Err(EstablishError::NotForUs);
        }
        let (ciphertext, noise) = answer[1..].split_at(CIPHERTEXT_LEN);
        let (_, mut state) = self.first(keys, peer)?;
        let shared =
            post_quantum::decapsulate(&self.moment_secret(), ciphertext).ok_or(EstablishError::NotForUs)?;
        state
            .set_psk(2, preshared(PSK_2, &shared, ciphertext).bytes())
            .map_err(|_| EstablishError::NotForUs)?;
        let mut payload = vec![0; ANSWER_BYTES];
        let length = state.read_message(noise, &mut payload).map_err(|_| EstablishError::NotForUs)?;
        let content: &[u8; 65] = unpad(&payload[..length])
            .and_then(|content| content.try_into().ok())
            .ok_or(EstablishError::Malformed)?;
        let [1, content @ ..] = content else { return Err(EstablishError::Malformed) };
        let (their_ratchet, grant) = content.split_at(32);
        let their_ratchet: [u8; 32] = their_ratchet.try_into().expect("split there");
        let ratchet = Ratchet::initiator(&root(&mut state), their_ratchet, Secret::draw(entropy))
            .ok_or(EstablishError::Malformed)?;
        Ok(Established { ratchet, grant: Secret::new(grant.try_into().expect("the rest")) })
    }
}

/// Reads a first message.
pub fn read_opening(
    keys: &WalletKeys,
    envelope: &[u8],
    entropy: &mut impl CryptoRng,
) -> Result<Opened, EstablishError> {
    if envelope.len() != OPENING_BYTES || EnvelopeKind::of(envelope) != Some(EnvelopeKind::Opening) {
        return Err(EstablishError::NotForUs);
    }
    let (ciphertext, noise) = envelope[1..].split_at(CIPHERTEXT_LEN);
    let shared =
        post_quantum::decapsulate(keys.post_quantum(), ciphertext).ok_or(EstablishError::NotForUs)?;
    let psk = preshared(PSK_0, &shared, ciphertext);
    let seed = Secret::draw(entropy);
    let prologue = prologue(&keys.wallet());
    let mut state = Builder::with_resolver(params(), Box::new(Seeded(*seed.bytes())))
        .prologue(&prologue)
        .and_then(|builder| builder.local_private_key(keys.channel().bytes()))
        .and_then(|builder| builder.psk(0, psk.bytes()))
        .and_then(Builder::build_responder)
        .map_err(|_| EstablishError::NotForUs)?;
    let mut payload = vec![0; OPENING_BYTES];
    let length = state.read_message(noise, &mut payload).map_err(|_| EstablishError::NotForUs)?;
    payload.truncate(length);

    let malformed = |_| EstablishError::Malformed;
    let content = unpad(&payload).ok_or(EstablishError::Malformed)?;
    let mut cursor = Cursor::new(bytes::Bytes::copy_from_slice(content));
    if cursor.u8("version").map_err(malformed)? != 1 {
        return Err(EstablishError::Malformed);
    }
    let time_unix_ms = cursor.u64("time").map_err(malformed)?;
    let grant = Secret::new(cursor.array("grant").map_err(malformed)?);
    let moment_key = cursor.bytes("key", POST_QUANTUM_KEY_LEN).map_err(malformed)?.to_vec();
    let presence = cursor.var_bytes("presence", PRESENCE_BYTES_MAX).map_err(malformed)?;
    cursor.finish().map_err(malformed)?;
    let peer = Presence::verify(presence).map_err(|_| EstablishError::Malformed)?;
    // # Security
    // Noise has proven that the sender holds the channel key; the record, that this key is the wallet's.
    if state.get_remote_static() != Some(&peer.body().channel_key[..]) || peer.wallet() == keys.wallet() {
        return Err(EstablishError::Malformed);
    }
    Ok(Opened { peer, time_unix_ms, grant, state, moment_key })
}

impl Opened {
    /// Answers: the second message, and this side's end of the channel. `grant` lets the peer bring mail.
    pub fn answer(
        mut self,
        grant: &Secret,
        entropy: &mut impl CryptoRng,
    ) -> Result<(Vec<u8>, Established), EstablishError> {
        let (ciphertext, shared) = post_quantum::encapsulate(&self.moment_key, &Secret::draw(entropy))
            .ok_or(EstablishError::Malformed)?;
        let psk = preshared(PSK_2, &shared, &ciphertext);
        self.state.set_psk(2, psk.bytes()).map_err(|_| EstablishError::Malformed)?;
        let ratchet_secret = Secret::draw(entropy);
        let content = [&[1][..], &public_of(&ratchet_secret), grant.bytes()].concat();
        let mut envelope = vec![0; ANSWER_BYTES];
        envelope[0] = EnvelopeKind::Answer as u8;
        envelope[1..=CIPHERTEXT_LEN].copy_from_slice(&ciphertext);
        self.state
            .write_message(&pad_to(&content, ANSWER_PAYLOAD), &mut envelope[1 + CIPHERTEXT_LEN..])
            .map_err(|_| EstablishError::Malformed)?;
        let ratchet = Ratchet::responder(&root(&mut self.state), ratchet_secret);
        Ok((envelope, Established { ratchet, grant: self.grant }))
    }
}
