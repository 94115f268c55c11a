//! The double ratchet, with sealed headers.
//!
//! After T. Perrin and M. Marlinspike, "The Double Ratchet Algorithm" (revision 1, 2016), section 4. Each
//! message has a key of its own, which is gone once it is used (forward secrecy); each answer brings a
//! new X25519 key into it (recovery after a compromise, as soon as both sides have spoken once).
//!
//! ```text
//! root step     96 bytes of BLAKE3 derive-key over root ‖ DH:  next root, chain key, next header key
//! chain step    message key = keyed BLAKE3(chain, 01); chain = keyed BLAKE3(chain, 02)
//! header        XChaCha20-Poly1305, drawn nonce: ratchet key (32), messages of the chain before (4), number (4)
//! content       ChaCha20-Poly1305 under the message key, nonce zero; the sealed header is authenticated with it
//! ```
//!
//! # Correctness
//! [`Ratchet::seal`] moves on before it returns. Whoever sends what it returns must have stored the ratchet
//! first: a process that comes back with an older one would use a message key twice.

use std::collections::{BTreeMap, VecDeque};

use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use crate::{
    envelope::{EnvelopeKind, OVERHEAD_BYTES, is_size_class},
    keys::{agree, public_of},
    secret::Secret,
};

/// Most messages of one chain that may be missing before one that comes.
pub const SKIP_MAX: u32 = 1_000;
/// Most message keys that are kept for messages that have not come: 2,000 × 36 bytes = 72 KB.
pub const SKIPPED_KEYS_MAX: usize = 2_000;
/// Most chains whose header keys, and keys of messages that have not come, are kept.
pub const SKIPPED_CHAINS_MAX: usize = 8;

const HEADER_LEN: usize = 40;
const SEALED_HEADER: usize = 24 + HEADER_LEN + 16;

/// Why a message does not open. The ratchet is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RatchetError {
    /// No header key of this channel opens it: it is of another channel, from a chain long gone, or noise.
    #[error("it is not of this channel")]
    NotOurs,
    /// Its key was used: it came before.
    #[error("it came before")]
    Replayed,
    /// It says that more messages are missing than are waited for.
    #[error("{0} messages before it are missing, at most {SKIP_MAX} may be")]
    TooFarAhead(u32),
    /// Its header is ours and its content was altered.
    #[error("it was altered on its way")]
    Altered,
    /// It is no envelope of a message.
    #[error("it is no message")]
    Malformed,
}

/// One direction's chain of message keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Chain {
    key: Secret,
    /// Number of the next message.
    next: u32,
}

impl Chain {
    fn step(&mut self) -> Secret {
        let message = Secret::new(*blake3::keyed_hash(self.key.bytes(), &[1]).as_bytes());
        self.key = Secret::new(*blake3::keyed_hash(self.key.bytes(), &[2]).as_bytes());
        self.next += 1;
        message
    }
}

/// Keys for messages of one chain that have not come.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Skipped {
    header: Secret,
    keys: BTreeMap<u32, Secret>,
}

/// One side of a channel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ratchet {
    root: Secret,
    own: Secret,
    theirs: Option<[u8; 32]>,
    sending: Option<Chain>,
    receiving: Option<Chain>,
    /// Messages of our chain before the present one.
    before: u32,
    header_sending: Option<Secret>,
    header_receiving: Option<Secret>,
    header_sending_next: Secret,
    header_receiving_next: Secret,
    skipped: VecDeque<Skipped>,
}

struct Header {
    theirs: [u8; 32],
    before: u32,
    number: u32,
}

/// Next root, chain key, next header key.
fn root_step(root: &Secret, shared: &Secret) -> (Secret, Secret, Secret) {
    let mut out = zeroize::Zeroizing::new([0; 96]);
    blake3::Hasher::new_derive_key("ghost 2026 wallet ratchet root")
        .update(root.bytes())
        .update(shared.bytes())
        .finalize_xof()
        .fill(out.as_mut());
    let part = |at: usize| Secret::new(out[at..at + 32].try_into().expect("32 bytes"));
    (part(0), part(32), part(64))
}

fn open_header(key: &Secret, sealed: &[u8]) -> Option<Header> {
    let (nonce, sealed) = sealed.split_at(24);
    let header = XChaCha20Poly1305::new(key.bytes().into()).decrypt(nonce.into(), sealed).ok()?;
    let number = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
    Some(Header { theirs: header.get(..32)?.try_into().ok()?, before: number(32)?, number: number(36)? })
}

fn open_content(key: &Secret, header: &[u8], sealed: &[u8]) -> Result<Vec<u8>, RatchetError> {
    ChaCha20Poly1305::new(key.bytes().into())
        .decrypt(&[0; 12].into(), Payload { msg: sealed, aad: header })
        .map_err(|_| RatchetError::Altered)
}

impl Ratchet {
    /// The side that opened the channel; it speaks first. `None` if the other side's key is no key.
    pub fn initiator(root: &Secret, theirs: [u8; 32], own: Secret) -> Option<Self> {
        let shared = agree(&own, &theirs)?;
        let (next_root, chain, header_next) = root_step(root, &shared);
        Some(Self {
            own,
            theirs: Some(theirs),
            sending: Some(Chain { key: chain, next: 0 }),
            receiving: None,
            before: 0,
            header_sending: Some(root.child("ghost 2026 wallet ratchet header initiator")),
            header_receiving: None,
            header_sending_next: header_next,
            header_receiving_next: root.child("ghost 2026 wallet ratchet header responder"),
            skipped: VecDeque::new(),
            root: next_root,
        })
    }

    /// The side that answered; it can speak once it has heard.
    pub fn responder(root: &Secret, own: Secret) -> Self {
        Self {
            own,
            theirs: None,
            sending: None,
            receiving: None,
            before: 0,
            header_sending: None,
            header_receiving: None,
            header_sending_next: root.child("ghost 2026 wallet ratchet header responder"),
            header_receiving_next: root.child("ghost 2026 wallet ratchet header initiator"),
            skipped: VecDeque::new(),
            root: root.clone(),
        }
    }

    /// True once there is a chain to send on.
    pub fn can_send(&self) -> bool {
        self.sending.is_some()
    }

    /// The public key that is sent along now. It changes with each turn.
    pub fn sending_key(&self) -> [u8; 32] {
        public_of(&self.own)
    }

    /// How many keys are kept for messages that have not come.
    pub fn skipped_keys(&self) -> usize {
        self.skipped.iter().map(|skipped| skipped.keys.len()).sum()
    }

    /// Seals padded content into an envelope; `None` as long as [`Self::can_send`] is false. Store the ratchet before
    /// the envelope leaves.
    pub fn seal(&mut self, padded: &[u8], entropy: &mut impl CryptoRng) -> Option<Vec<u8>> {
        let (chain, header_key) = (self.sending.as_mut()?, self.header_sending.as_ref()?);
        let number = chain.next;
        let key = chain.step();
        let mut header = Vec::with_capacity(HEADER_LEN);
        header.extend_from_slice(&public_of(&self.own));
        header.extend_from_slice(&self.before.to_be_bytes());
        header.extend_from_slice(&number.to_be_bytes());
        let mut nonce = [0; 24];
        entropy.fill_bytes(&mut nonce);
        let sealed_header = XChaCha20Poly1305::new(header_key.bytes().into())
            .encrypt(&nonce.into(), header.as_slice())
            .expect("forty bytes are not too long");
        let mut envelope = Vec::with_capacity(OVERHEAD_BYTES + padded.len());
        envelope.push(EnvelopeKind::Message as u8);
        envelope.extend_from_slice(&nonce);
        envelope.extend_from_slice(&sealed_header);
        let content = ChaCha20Poly1305::new(key.bytes().into())
            .encrypt(&[0; 12].into(), Payload { msg: padded, aad: &envelope })
            .expect("an envelope is not too long");
        envelope.extend_from_slice(&content);
        Some(envelope)
    }

    /// Opens an envelope. On any error nothing has changed.
    pub fn open(&mut self, envelope: &[u8], entropy: &mut impl CryptoRng) -> Result<Vec<u8>, RatchetError> {
        if EnvelopeKind::of(envelope) != Some(EnvelopeKind::Message) || !is_size_class(envelope.len()) {
            return Err(RatchetError::Malformed);
        }
        let (head, content) = envelope.split_at(1 + SEALED_HEADER);
        let sealed_header = &head[1..];

        for index in 0..self.skipped.len() {
            let skipped = &self.skipped[index];
            let Some(header) = open_header(&skipped.header, sealed_header) else { continue };
            if let Some(key) = skipped.keys.get(&header.number) {
                let opened = open_content(key, head, content)?;
                self.skipped[index].keys.remove(&header.number);
                return Ok(opened);
            }
            let current = self.header_receiving.as_ref().map(Secret::bytes);
            if current != Some(skipped.header.bytes()) {
                return Err(RatchetError::Replayed);
            }
        }
        if let (Some(key), Some(chain)) = (&self.header_receiving, &self.receiving)
            && let Some(header) = open_header(key, sealed_header)
        {
            if header.number < chain.next {
                return Err(RatchetError::Replayed);
            }
            let mut next = self.clone();
            next.skip_to(header.number)?;
            let opened = next.take_next(head, content)?;
            *self = next;
            return Ok(opened);
        }
        let Some(header) = open_header(&self.header_receiving_next, sealed_header) else {
            return Err(RatchetError::NotOurs);
        };
        let mut next = self.clone();
        next.skip_to(header.before)?;
        next.turn(&header, entropy).ok_or(RatchetError::Altered)?;
        next.skip_to(header.number)?;
        let opened = next.take_next(head, content)?;
        *self = next;
        Ok(opened)
    }

    fn take_next(&mut self, head: &[u8], content: &[u8]) -> Result<Vec<u8>, RatchetError> {
        let chain = self.receiving.as_mut().ok_or(RatchetError::NotOurs)?;
        open_content(&chain.step(), head, content)
    }

    /// Puts aside the keys of messages before `number` that have not come.
    fn skip_to(&mut self, number: u32) -> Result<(), RatchetError> {
        let (Some(chain), Some(header)) = (&mut self.receiving, &self.header_receiving) else {
            return Ok(());
        };
        let missing = number.saturating_sub(chain.next);
        if missing > SKIP_MAX {
            return Err(RatchetError::TooFarAhead(missing));
        }
        if missing == 0 {
            return Ok(());
        }
        let known = self.skipped.iter().position(|skipped| skipped.header.bytes() == header.bytes());
        let index = known.unwrap_or_else(|| {
            self.skipped.push_back(Skipped { header: header.clone(), keys: BTreeMap::new() });
            self.skipped.len() - 1
        });
        for number in chain.next..number {
            let key = chain.step();
            self.skipped[index].keys.insert(number, key);
        }
        self.forget_oldest();
        Ok(())
    }

    /// The oldest are the least likely to come.
    fn forget_oldest(&mut self) {
        while self.skipped.len() > SKIPPED_CHAINS_MAX {
            self.skipped.pop_front();
        }
        let mut excess = self.skipped_keys().saturating_sub(SKIPPED_KEYS_MAX);
        for skipped in &mut self.skipped {
            while excess > 0 && skipped.keys.pop_first().is_some() {
                excess -= 1;
            }
        }
    }

    /// The other side has a new key: so do we. `None` if theirs is no key.
    fn turn(&mut self, header: &Header, entropy: &mut impl CryptoRng) -> Option<()> {
        self.before = self.sending.as_ref().map_or(0, |chain| chain.next);
        // The header key of a chain that is over still tells what came before from what is not ours.
        if let Some(over) = self.header_receiving.take()
            && self.skipped.iter().all(|skipped| skipped.header.bytes() != over.bytes())
        {
            self.skipped.push_back(Skipped { header: over, keys: BTreeMap::new() });
            self.forget_oldest();
        }
        self.header_sending = Some(self.header_sending_next.clone());
        self.header_receiving = Some(self.header_receiving_next.clone());
        self.theirs = Some(header.theirs);
        let (root, chain, header_next) = root_step(&self.root, &agree(&self.own, &header.theirs)?);
        self.receiving = Some(Chain { key: chain, next: 0 });
        self.header_receiving_next = header_next;
        self.own = Secret::draw(entropy);
        let (root, chain, header_next) = root_step(&root, &agree(&self.own, &header.theirs)?);
        self.sending = Some(Chain { key: chain, next: 0 });
        self.header_sending_next = header_next;
        self.root = root;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;
    use crate::envelope::{pad, unpad};

    fn pair() -> (Ratchet, Ratchet, ChaCha20Rng) {
        let root = Secret::new([1; 32]);
        let responder = Secret::new([2; 32]);
        let initiator = Ratchet::initiator(&root, public_of(&responder), Secret::new([3; 32])).unwrap();
        (initiator, Ratchet::responder(&root, responder), ChaCha20Rng::from_seed([4; 32]))
    }

    fn send(from: &mut Ratchet, text: &str, rng: &mut ChaCha20Rng) -> Vec<u8> {
        from.seal(&pad(text.as_bytes()).unwrap(), rng).unwrap()
    }

    fn read(to: &mut Ratchet, envelope: &[u8], rng: &mut ChaCha20Rng) -> Result<String, RatchetError> {
        let padded = to.open(envelope, rng)?;
        Ok(String::from_utf8(unpad(&padded).unwrap().to_vec()).unwrap())
    }

    fn swap(a: &mut Ratchet, b: &mut Ratchet, rng: &mut ChaCha20Rng) {
        let there = send(a, "there", rng);
        assert_eq!(read(b, &there, rng).as_deref(), Ok("there"));
        let back = send(b, "back", rng);
        assert_eq!(read(a, &back, rng).as_deref(), Ok("back"));
    }

    #[test]
    fn the_responder_speaks_once_it_has_heard() {
        let (mut alice, mut bob, mut rng) = pair();
        assert!(!bob.can_send() && bob.seal(&pad(b"x").unwrap(), &mut rng).is_none());
        swap(&mut alice, &mut bob, &mut rng);
    }

    /// Whoever takes the state now reads nothing that was sent before.
    #[test]
    fn a_stolen_state_does_not_open_what_came_before() {
        let (mut alice, mut bob, mut rng) = pair();
        swap(&mut alice, &mut bob, &mut rng);
        let before = send(&mut alice, "before", &mut rng);
        assert!(read(&mut bob, &before, &mut rng).is_ok());
        for state in [&alice, &bob] {
            assert!(state.clone().open(&before, &mut rng).is_err());
        }
    }

    /// Whoever took the state is locked out once both sides have spoken.
    #[test]
    fn a_stolen_state_is_worth_nothing_after_a_turn_each_way() {
        let (mut alice, mut bob, mut rng) = pair();
        swap(&mut alice, &mut bob, &mut rng);
        let mut stolen = bob.clone();
        let still = send(&mut alice, "still read", &mut rng);
        assert!(read(&mut stolen.clone(), &still, &mut rng).is_ok(), "the thief has the keys of now");
        assert!(read(&mut bob, &still, &mut rng).is_ok());
        swap(&mut bob, &mut alice, &mut rng);
        swap(&mut bob, &mut alice, &mut rng);
        let healed = send(&mut alice, "healed", &mut rng);
        // The thief follows with whatever it draws itself.
        assert_eq!(stolen.open(&healed, &mut ChaCha20Rng::from_seed([9; 32])), Err(RatchetError::NotOurs));
        assert_eq!(read(&mut bob, &healed, &mut rng).as_deref(), Ok("healed"));
    }

    #[test]
    fn so_many_may_be_missing_and_not_one_more() {
        for (missing, good) in [(SKIP_MAX, true), (SKIP_MAX + 1, false)] {
            let (mut alice, mut bob, mut rng) = pair();
            swap(&mut alice, &mut bob, &mut rng);
            let first = send(&mut alice, "first", &mut rng);
            assert!(read(&mut bob, &first, &mut rng).is_ok());
            (0..missing).for_each(|_| drop(send(&mut alice, "lost", &mut rng)));
            let late = send(&mut alice, "late", &mut rng);
            let result = read(&mut bob, &late, &mut rng);
            match good {
                true => assert_eq!((result.as_deref(), bob.skipped_keys()), (Ok("late"), SKIP_MAX as usize)),
                false => {
                    assert_eq!(result, Err(RatchetError::TooFarAhead(SKIP_MAX + 1)));
                    assert_eq!(bob.skipped_keys(), 0, "nothing has changed");
                }
            }
        }
    }

    #[test]
    fn keys_of_missing_messages_are_bounded_and_the_oldest_go_first() {
        let (mut alice, mut bob, mut rng) = pair();
        let mut oldest = None;
        for _ in 0..4 {
            for n in 0..900 {
                let lost = send(&mut alice, "lost", &mut rng);
                if n == 0 {
                    oldest.get_or_insert(lost);
                }
            }
            swap(&mut alice, &mut bob, &mut rng);
        }
        assert_eq!(bob.skipped_keys(), SKIPPED_KEYS_MAX);
        assert!(bob.open(&oldest.unwrap(), &mut rng).is_err());
        for _ in 0..20 {
            drop(send(&mut alice, "lost", &mut rng));
            swap(&mut alice, &mut bob, &mut rng);
        }
        assert!(bob.skipped.len() <= SKIPPED_CHAINS_MAX);
    }

    #[test]
    fn a_state_that_was_stored_goes_on_where_it_was() {
        let (mut alice, mut bob, mut rng) = pair();
        swap(&mut alice, &mut bob, &mut rng);
        let lost = send(&mut alice, "late", &mut rng);
        swap(&mut alice, &mut bob, &mut rng);
        let again = |ratchet: &Ratchet| -> Ratchet {
            postcard::from_bytes(&postcard::to_allocvec(ratchet).unwrap()).unwrap()
        };
        let (mut alice, mut bob) = (again(&alice), again(&bob));
        assert_eq!(read(&mut bob, &lost, &mut rng).as_deref(), Ok("late"));
        swap(&mut bob, &mut alice, &mut rng);
    }
}
