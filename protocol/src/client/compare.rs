//! Asking several nodes the same and holding their answers against each other.

use bytes::Bytes;
use ghost_frames::{Frame, Payload, contract::CallRequest};
use ghost_proto::{
    Call, CallAnswer, GenesisId, Multiaddr, PeerId,
    call::{CALL_ANSWER_BYTES_MAX, CALL_BYTES_MAX},
    keys::BadSignature,
    layout::{Cursor, LayoutError, put_var_bytes},
    message, record,
};
use tokio::task::JoinSet;

use super::{CallError, Pool, calls::checked_answer, contract::nonsense, unexpected};

/// How often the nodes are asked again when they are of different heads.
const ROUNDS_MAX: usize = 3;

/// A call, its answer, and who signed it: proof of what was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedAnswer {
    /// Who.
    pub peer: PeerId,
    /// About which chain.
    pub genesis: GenesisId,
    /// The call.
    pub call: Call,
    /// The answer with its signature.
    pub answer: CallAnswer,
}

impl SignedAnswer {
    /// Checks that the peer signed this.
    ///
    /// # Errors
    /// [`BadSignature`]: it proves nothing.
    pub fn verify(&self) -> Result<(), BadSignature> {
        let key = record::key_of(&self.peer).ok_or(BadSignature)?;
        self.answer.verify(&self.call, &self.genesis, &key)
    }

    /// True if both answer the same call on the same state, and differently: at least one is a lie,
    /// and both signatures together prove that to anyone.
    pub fn contradicts(&self, other: &Self) -> bool {
        let same = |it: &Self| (it.genesis, it.call.clone(), it.answer.block, it.answer.state);
        same(self) == same(other) && !self.answer.agrees_with(&other.answer)
    }

    /// To keep or to show: varint length and peer, genesis id (32), varint length and call, varint
    /// length and answer.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_var_bytes(&mut out, &self.peer.to_bytes());
        out.extend_from_slice(&self.genesis.0);
        let mut part = Vec::new();
        self.call.encode(&mut part);
        put_var_bytes(&mut out, &part);
        part.clear();
        self.answer.encode(&mut part);
        put_var_bytes(&mut out, &part);
        out
    }

    /// Reads what [`Self::encode`] wrote. The signature is not checked.
    ///
    /// # Errors
    /// [`LayoutError`]: these bytes were never one.
    pub fn parse(bytes: Bytes) -> Result<Self, LayoutError> {
        let mut cursor = Cursor::new(bytes);
        let peer = cursor.var_bytes("peer", 64)?;
        let peer = PeerId::from_bytes(&peer).map_err(|_| LayoutError::OutOfRange {
            field: "peer",
            value: peer.len() as u64,
            min: 38,
            max: 38,
        })?;
        let genesis = GenesisId(cursor.array("genesis id")?);
        let call = Call::parse(cursor.var_bytes("call", CALL_BYTES_MAX)?)?;
        let answer = CallAnswer::parse(cursor.var_bytes("answer", CALL_ANSWER_BYTES_MAX)?)?;
        cursor.finish()?;
        Ok(Self { peer, genesis, call, answer })
    }
}

/// What several nodes said.
#[derive(Debug, Clone)]
pub struct Compared {
    /// What more than half of those asked say.
    pub answer: CallAnswer,
    /// They say it.
    pub agreeing: Vec<SignedAnswer>,
    /// They say something else, signed. Those that [`SignedAnswer::contradicts`] an agreeing one lied;
    /// keep them.
    pub dissenting: Vec<SignedAnswer>,
    /// They said nothing.
    pub silent: Vec<(Multiaddr, CallError)>,
}

impl Compared {
    /// Signed lies: on the very state that the majority answered for, something else.
    pub fn lies(&self) -> impl Iterator<Item = &SignedAnswer> {
        self.dissenting.iter().filter(|it| self.agreeing.iter().any(|true_one| it.contradicts(true_one)))
    }
}

/// Why there is no answer that more than half of the nodes give.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CompareError {
    /// The pool has fewer nodes.
    #[error("{asked} nodes are to be compared, the pool has {have}")]
    TooFewNodes {
        /// How many were to be asked.
        asked: usize,
        /// How many there are.
        have: usize,
    },
    /// Too few answered, or they disagree. They may be of different heads: ask again.
    #[error("no answer is given by more than half of the nodes: {} answered, {} did not", answers.len(), silent.len())]
    NoMajority {
        /// What they said.
        answers: Vec<SignedAnswer>,
        /// They said nothing.
        silent: Vec<(Multiaddr, CallError)>,
    },
}

impl Pool {
    /// Asks `count` nodes to run a call on the state of one height and to sign what it gave, and
    /// returns what more than half of them say. Without `call.height`, at a height that at least
    /// half of them have reached.
    ///
    /// Nodes that cannot be reached are replaced by others of the pool.
    ///
    /// # Errors
    /// [`CompareError`]; with its answers, so that lies can be kept.
    pub async fn call_compared(&self, call: &Call, count: usize) -> Result<Compared, CompareError> {
        if count == 0 || count > self.len() {
            return Err(CompareError::TooFewNodes { asked: count, have: self.len() });
        }
        let mut round = 1;
        loop {
            let compared = self.compare(call, count).await;
            match compared {
                Err(CompareError::NoMajority { answers, .. })
                    if round < ROUNDS_MAX && call.height.is_none() && answers.len() * 2 > count => {}
                done => return done,
            }
            round += 1;
        }
    }

    async fn compare(&self, call: &Call, count: usize) -> Result<Compared, CompareError> {
        // Who can be reached, best first, and how far each is.
        let mut silent = Vec::new();
        let mut nodes: Vec<(usize, u64)> = Vec::new();
        let mut order = self.order().into_iter();
        loop {
            let batch: Vec<_> = order.by_ref().take(count - nodes.len()).collect();
            if batch.is_empty() {
                break;
            }
            let mut asked = JoinSet::new();
            for index in batch {
                let pool = self.clone();
                asked.spawn(async move { (index, pool.height_of(index).await) });
            }
            for (index, height) in asked.join_all().await {
                match height {
                    Ok(height) => nodes.push((index, height)),
                    Err(error) => silent.push((self.address(index).clone(), error)),
                }
            }
            if nodes.len() == count {
                break;
            }
        }
        nodes.sort_unstable_by_key(|(_, height)| *height);
        let Some((_, middle)) = nodes.get(nodes.len().saturating_sub(1) / 2) else {
            return Err(CompareError::NoMajority { answers: Vec::new(), silent });
        };
        let call = Call { signed: true, height: call.height.or(Some(*middle)), ..call.clone() };
        let mut asked = JoinSet::new();
        for (index, _) in &nodes {
            let (pool, call, index) = (self.clone(), call.clone(), *index);
            asked.spawn(async move { (index, pool.signed_answer(index, call).await) });
        }
        let mut answers = Vec::new();
        for (index, answer) in asked.join_all().await {
            match answer {
                Ok(answer) => answers.push((index, answer)),
                Err(error) => silent.push((self.address(index).clone(), error)),
            }
        }
        answers.sort_unstable_by_key(|(index, _)| *index);
        let answers: Vec<SignedAnswer> = answers.into_iter().map(|(_, answer)| answer).collect();
        let votes =
            |it: &SignedAnswer| answers.iter().filter(|other| other.answer.agrees_with(&it.answer)).count();
        let Some(chosen) = answers.iter().find(|it| votes(it) * 2 > count).map(|it| it.answer.clone()) else {
            return Err(CompareError::NoMajority { answers, silent });
        };
        let (agreeing, dissenting) = answers.into_iter().partition(|it| it.answer.agrees_with(&chosen));
        Ok(Compared { answer: chosen, agreeing, dissenting, silent })
    }

    async fn height_of(&self, index: usize) -> Result<u64, CallError> {
        let answered = self.ask_node(index, &message::StatusRequest {}.to_frame()).await?;
        let status = expect_answer!(answered.frame, Status)?;
        Ok(status.head.ok_or_else(|| nonsense("it names no head"))?.height)
    }

    async fn signed_answer(&self, index: usize, call: Call) -> Result<SignedAnswer, CallError> {
        let answered = self.ask_node(index, &CallRequest(call.clone()).to_frame()).await?;
        let peer = answered.peer;
        let genesis = answered.genesis.ok_or_else(|| nonsense("it is of no chain"))?;
        let answer = checked_answer(&call, answered)?;
        Ok(SignedAnswer { peer, genesis, call, answer })
    }
}

#[cfg(test)]
mod tests {
    use ghost_proto::{BlockId, KeyPair, Outcome};

    use super::*;

    fn signed(seed: u8, output: &'static [u8], state: u8) -> SignedAnswer {
        let key = KeyPair::from_seed(&[seed; 32]);
        let call = Call { height: Some(4), signed: true, ..Call::default() };
        let genesis = GenesisId([1; 32]);
        let mut answer = CallAnswer {
            height: 4,
            block: BlockId([2; 32]),
            state: [state; 32],
            outcome: Outcome::Done,
            gas_used: 21_000,
            output: Bytes::from_static(output),
            signature: None,
        };
        answer.sign(&call, &genesis, &key);
        SignedAnswer { peer: record::peer_of(&key.public()).unwrap(), genesis, call, answer }
    }

    #[test]
    fn a_kept_answer_proves_who_said_it() {
        let kept = signed(1, b"5", 3);
        let read = SignedAnswer::parse(kept.encode().into()).unwrap();
        assert_eq!(read, kept);
        assert_eq!(read.verify(), Ok(()));
        let framed = SignedAnswer { peer: signed(2, b"5", 3).peer, ..kept };
        assert_eq!(framed.verify(), Err(BadSignature), "nobody can be framed");
        assert!(SignedAnswer::parse(Bytes::from_static(&[1, 2, 3])).is_err());
    }

    #[test]
    fn only_answers_on_one_state_contradict_each_other() {
        assert!(signed(1, b"5", 3).contradicts(&signed(2, b"6", 3)));
        assert!(!signed(1, b"5", 3).contradicts(&signed(2, b"5", 3)));
        assert!(!signed(1, b"5", 3).contradicts(&signed(2, b"6", 4)), "of another fork, perhaps");
    }
}
